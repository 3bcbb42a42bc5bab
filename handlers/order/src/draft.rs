//! What a client asks for, and whether it can be had. All that is wrong is reported at once.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::Problem;
use tidemill_sdk::{Decimal, json};

/// Places of an amount of money.
const PLACES: u32 = 2;
const MAX_ITEMS: usize = 100;
const MAX_QUANTITY: i64 = 1_000_000;

/// The body of `POST /api/orders`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Draft {
    items: Vec<DraftItem>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DraftItem {
    product_id: i64,
    quantity: i64,
    /// Of one piece.
    #[serde(deserialize_with = "json::decimal")]
    price: Decimal,
}

/// An order that can be taken.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) items: Vec<CheckedItem>,
    /// Of all items, with exactly two places.
    pub(crate) total: Decimal,
}

#[derive(Debug)]
pub(crate) struct CheckedItem {
    pub(crate) product_id: i64,
    pub(crate) quantity: u32,
    /// Of one piece, with exactly two places.
    pub(crate) price: Decimal,
}

#[derive(Debug, Serialize)]
struct Wrong {
    field: String,
    message: String,
}

impl Draft {
    /// The order, or a 400 whose `errors` name every field that is wrong.
    pub(crate) fn check(self) -> Result<Checked, Problem> {
        let mut errors = Vec::new();
        let mut wrong = |field: String, message: String| errors.push(Wrong { field, message });
        if self.items.is_empty() || self.items.len() > MAX_ITEMS {
            wrong("items".into(), format!("must have 1 to {MAX_ITEMS} items, has {}", self.items.len()));
        }
        let mut total = Some(Decimal::new(0, PLACES));
        let mut items = Vec::with_capacity(self.items.len());
        for (at, DraftItem { product_id, quantity, price }) in self.items.into_iter().enumerate() {
            if product_id < 1 {
                wrong(format!("items[{at}].productId"), format!("must be 1 or more, is {product_id}"));
            }
            if !(1..=MAX_QUANTITY).contains(&quantity) {
                wrong(format!("items[{at}].quantity"), format!("must be 1 to {MAX_QUANTITY}, is {quantity}"));
            }
            if price <= Decimal::ZERO {
                wrong(format!("items[{at}].price"), format!("must be more than 0, is {price}"));
            } else if price.normalize().scale() > PLACES {
                wrong(format!("items[{at}].price"), format!("must have at most {PLACES} places, is {price}"));
            }
            let mut exact = price;
            exact.rescale(PLACES);
            total = total.and_then(|total| total.checked_add(exact.checked_mul(Decimal::from(quantity))?));
            items.push(CheckedItem { product_id, quantity: u32::try_from(quantity).unwrap_or(0), price: exact });
        }
        // A sum too large for two places loses some of them; it is not taken rather than rounded.
        match total {
            Some(total) if errors.is_empty() && total.scale() == PLACES => return Ok(Checked { items, total }),
            Some(total) if total.scale() == PLACES => {}
            _ => errors.push(Wrong { field: "items".into(), message: "the total amount is too large".into() }),
        }
        Err(Problem::bad_request("the order cannot be taken as it is").with("errors", &errors))
    }
}
