//! What finds the rows of a sealed part: its ids' hashes in order, of which 16 bits each stay in memory.
//!
//! The order is cut into buckets of about [`BUCKET`] by a hash's upper half, and an id may be where its lower 16 bits are found in
//! its bucket. The row of each place is in `tm_inbox_index`, and read only then: once for a few thousand ids that are
//! new. It never says that an id is there.

use crate::store::{Connection, Error, Kind, Value};

/// Places of one bucket, on average.
const BUCKET: usize = 16;
/// Row numbers in one row of `tm_inbox_index`, of which two fit into a page.
const CHUNK: usize = 500;
/// Ids of one part's chunks.
const CHUNKS: i64 = 1 << 32;

/// Where an id's row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) hash: u64,
    /// Counted from the first row of its part.
    pub(super) row: u32,
}

/// The hashes of a part's ids, in their order.
pub(super) struct Index {
    /// Where each bucket begins, and where the last one ends.
    starts: Box<[u32]>,
    /// The lower bits of each hash.
    prints: Box<[u16]>,
}

impl Index {
    fn new(places: &[Place]) -> Self {
        let buckets = places.len().div_ceil(BUCKET);
        let mut starts = vec![0; buckets + 1].into_boxed_slice();
        for place in places {
            if let Some(behind) = starts.get_mut(bucket(place.hash, buckets) + 1) {
                *behind += 1;
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Self { starts, prints: places.iter().map(|place| print(place.hash)).collect() }
    }

    /// As [`write`] has written it.
    pub(super) fn read(starts: &[u8], prints: &[u8]) -> Result<Self, Error> {
        let (starts, odd) = starts.as_chunks();
        let (prints, uneven) = prints.as_chunks();
        let index = Self {
            starts: starts.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(),
            prints: prints.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect(),
        };
        let end = index.starts.last().map(|end| *end as usize);
        if !odd.is_empty() || !uneven.is_empty() || end != Some(index.prints.len()) {
            return Err(Error::new(Kind::Other, "tm_inbox_part has an index that does not fit: the store is damaged"));
        }
        Ok(index)
    }

    /// The places at which an id with this hash may be.
    pub(super) fn find(&self, hash: u64) -> impl Iterator<Item = usize> {
        let bucket = bucket(hash, self.starts.len().saturating_sub(1));
        let at = |n: usize| self.starts.get(n).map_or(0, |start| *start as usize);
        let (from, to) = (at(bucket), at(bucket + 1));
        let prints = self.prints.get(from..to).unwrap_or_default();
        (from..).zip(prints).filter(move |(_, other)| **other == print(hash)).map(|(at, _)| at)
    }
}

/// Makes a part's index and writes it beside the part.
pub(super) fn write(connection: &Connection, part: i64, mut places: Vec<Place>) -> Result<Index, Error> {
    places.sort_unstable_by_key(|place| place.hash);
    let index = Index::new(&places);
    let starts: Vec<u8> = index.starts.iter().flat_map(|start| start.to_le_bytes()).collect();
    let prints: Vec<u8> = index.prints.iter().flat_map(|print| print.to_le_bytes()).collect();
    let sql = "UPDATE main.tm_inbox_part SET starts = ?2, prints = ?3 WHERE part = ?1";
    connection.execute(sql, &[part.into(), Value::Blob(starts), Value::Blob(prints)])?;
    for (n, chunk) in (0..).zip(places.chunks(CHUNK)) {
        let rows = chunk.iter().flat_map(|place| place.row.to_le_bytes()).collect();
        let sql = "INSERT INTO main.tm_inbox_index (id, rows) VALUES (?1, ?2)";
        connection.execute(sql, &[Value::Integer(part * CHUNKS + n), Value::Blob(rows)])?;
    }
    Ok(index)
}

/// The row that belongs to a place of a part's index.
pub(super) fn row(connection: &Connection, part: i64, at: usize) -> Result<Option<i64>, Error> {
    let sql = "SELECT substr(rows, ?2, 4) FROM main.tm_inbox_index WHERE id = ?1";
    let (id, byte) = (part * CHUNKS + (at / CHUNK) as i64, (at % CHUNK * 4 + 1) as i64);
    let bytes = connection.first(sql, &[id.into(), byte.into()], |row| row.opt_bytes(0))?.flatten();
    Ok(bytes.and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?).into())))
}

/// Removes what [`write`] has put beside a part.
pub(super) fn remove(connection: &Connection, part: i64) -> Result<(), Error> {
    let sql = "DELETE FROM main.tm_inbox_index WHERE id >= ?1 AND id < ?2";
    connection.execute(sql, &[(part * CHUNKS).into(), ((part + 1) * CHUNKS).into()]).map(drop)
}

/// In which of so many buckets a hash is: they follow each other in its order.
fn bucket(hash: u64, buckets: usize) -> usize {
    (((hash >> 32) * buckets as u64) >> 32) as usize
}

#[allow(clippy::cast_possible_truncation)]
fn print(hash: u64) -> u16 {
    hash as u16
}
