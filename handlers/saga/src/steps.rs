//! The steps of a saga, in their order, and what is said of each. It is the one place to add a step.

/// A thing that one participant does, and can take back.
pub(crate) struct Step {
    /// Where its participant takes commands.
    pub(crate) participant: &'static str,
    /// The saga's status while the step is under way, what begins it, and how that may end.
    pub(crate) doing: &'static str,
    pub(crate) command: &'static str,
    pub(crate) done: &'static str,
    pub(crate) failed: &'static str,
    /// The same while it is taken back, which cannot fail.
    pub(crate) undoing: &'static str,
    pub(crate) undo: &'static str,
    pub(crate) undone: &'static str,
}

pub(crate) static STEPS: [Step; 3] = [
    Step {
        participant: "inventory-commands",
        doing: "RESERVING",
        command: "RESERVE",
        done: "STOCK_RESERVED",
        failed: "STOCK_REFUSED",
        undoing: "RELEASING",
        undo: "RELEASE",
        undone: "STOCK_RELEASED",
    },
    Step {
        participant: "payment-commands",
        doing: "PAYING",
        command: "PAY",
        done: "PAYMENT_PAID",
        failed: "PAYMENT_FAILED",
        undoing: "REFUNDING",
        undo: "REFUND",
        undone: "PAYMENT_REFUNDED",
    },
    Step {
        participant: "delivery-commands",
        doing: "SHIPPING",
        command: "SHIP",
        done: "DELIVERY_STARTED",
        failed: "DELIVERY_FAILED",
        undoing: "CALLING_OFF",
        undo: "CALL_OFF",
        undone: "DELIVERY_CALLED_OFF",
    },
];

/// Where a saga is.
pub(crate) enum Place {
    /// Step `n` is under way.
    Forward(usize, &'static Step),
    /// It is taken back.
    Back(usize, &'static Step),
}

/// `None` at either end.
pub(crate) fn place(status: &str) -> Option<Place> {
    STEPS.iter().enumerate().find_map(|(n, step)| {
        if step.doing == status {
            Some(Place::Forward(n, step))
        } else {
            (step.undoing == status).then_some(Place::Back(n, step))
        }
    })
}
