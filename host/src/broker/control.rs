//! The control protocol between daemon and embedded broker: one JSON object a line, on a Unix domain socket.
//!
//! Each request gets one reply, in order. Who may connect is who may write to the socket: its owner.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// A longer line ends the connection.
const LINE_MAX: u64 = 1024 * 1024;

/// What a daemon asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Who is there?
    Ping,
    /// Create a topic, with one replica.
    Create {
        /// Its name.
        topic: String,
        /// 1 or more.
        partitions: i32,
    },
    /// Which topics were created by request?
    Topics,
    /// End by yourself after so long without a connection.
    Lease {
        /// 0: never.
        seconds: u64,
    },
    /// End now.
    Stop,
}

/// What the broker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Ping`].
    Pong {
        /// Of the broker that answers.
        incarnation: String,
    },
    /// To [`Request::Create`].
    Created {
        /// False: the topic was there already.
        new: bool,
    },
    /// To [`Request::Topics`].
    Topics {
        /// Partitions by name.
        topics: BTreeMap<String, i32>,
    },
    /// To [`Request::Lease`] and [`Request::Stop`].
    Done,
    /// Not done, and why.
    Refused {
        /// One sentence.
        reason: String,
    },
}

/// A daemon's connection.
#[derive(Debug)]
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects; each answer must come within `timeout`.
    pub fn connect(socket: &Path, timeout: Duration) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
        stream.set_read_timeout(Some(timeout)).context("set the read timeout")?;
        stream.set_write_timeout(Some(timeout)).context("set the write timeout")?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends one request and waits for its reply. After an error the connection is of no more use.
    pub fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        send(self.stream.get_mut(), request).context("send to the embedded broker")?;
        match receive(&mut self.stream).context("wait for the embedded broker's answer")? {
            Some(reply) => Ok(reply),
            None => bail!("the embedded broker closed the connection"),
        }
    }
}

/// Writes one line.
pub(super) fn send<T: Serialize>(stream: &mut UnixStream, message: &T) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    Ok(())
}

/// Reads one line; `None` at the end of the stream.
pub(super) fn receive<T: for<'a> Deserialize<'a>>(stream: &mut BufReader<UnixStream>) -> anyhow::Result<Option<T>> {
    let mut line = Vec::new();
    stream.by_ref().take(LINE_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        bail!("a line is cut off, or longer than {LINE_MAX} bytes");
    }
    Ok(Some(serde_json::from_slice(&line)?))
}
