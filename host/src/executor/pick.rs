//! Which delivery runs next: one of the handler that has run for the shortest time; within it its lanes, its requests and its
//! reports of sends take turns.
//!
//! Nobody waits for ever behind another: a handler whose deliveries take long has as much of the store's time as one whose
//! deliveries are short, and not as many turns. None takes more of a processor than its limits give it. One that has to run alone leads a group of its own. It looks at memory only; what
//! is picked stays where it is until its group has committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::group::Group;
use super::{Executor, Member, Share};
use crate::lane::Token;

/// Deliveries that a handler runs alone after one of its own could not run in company.
const SOLO_AFTER_BREAK: u32 = 64;

/// What runs next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pick {
    /// The head of a lane.
    Lane(Token),
    /// A handler's oldest request.
    Request(Arc<str>),
    /// What a handler is told of the event that it sent first.
    Completed(Arc<str>),
}

impl Executor {
    /// A handler that runs alone for a while does not join others; its pick is put back.
    pub(super) fn may_join(&mut self, pick: &Pick) -> bool {
        if !self.runs_solo(pick) {
            return true;
        }
        self.put_back(pick);
        false
    }

    pub(super) fn put_back(&mut self, pick: &Pick) {
        // Its handler's place in the order of turns is as it was.
        match pick {
            Pick::Lane(token) => self.list(*token),
            Pick::Request(handler) => {
                if let Some(member) = self.members.get_mut(handler) {
                    member.requests_first = true;
                }
            }
            Pick::Completed(handler) => {
                if let Some(member) = self.members.get_mut(handler) {
                    member.sends_first = true;
                }
            }
        }
    }

    fn handler_of<'a>(&'a self, pick: &'a Pick) -> Option<&'a Arc<str>> {
        match pick {
            Pick::Lane(token) => self.lanes.get(token).map(|lane| &lane.handler),
            Pick::Request(handler) | Pick::Completed(handler) => Some(handler),
        }
    }

    fn member_of(&mut self, pick: &Pick) -> Option<&mut Member> {
        let handler = match pick {
            Pick::Lane(token) => &self.lanes.get(token)?.handler,
            Pick::Request(handler) | Pick::Completed(handler) => handler,
        };
        self.members.get_mut(handler)
    }

    /// What was done for a pick since then is its handler's to pay for.
    pub(super) fn spend(&mut self, pick: &Pick, since: Instant, failing: bool) {
        if let Some(Member { live, spent, .. }) = self.member_of(pick) {
            let limits = &live.environment.spec.limits;
            let now = Instant::now();
            spent.spend(now - since, now, limits.cpu, failing.then_some(limits.failing_cpu));
        }
    }

    /// The handler of a pick has run for so long.
    pub(super) fn charge(&mut self, pick: &Pick, time: Duration) {
        // Who is alone shares with nobody.
        if self.turn.len() < 2 {
            return;
        }
        let Some(handler) = self.handler_of(pick) else { return };
        let place = self.turn.iter().position(|share| share.handler == *handler);
        let Some(mut share) = place.and_then(|place| self.turn.remove(place)) else { return };
        self.used = self.used.max(share.used);
        share.used = self.used + time;
        self.line_up(share);
    }

    /// Puts a handler into the order of turns, behind those that have run for as long.
    pub(super) fn line_up(&mut self, share: Share) {
        let place = self.turn.partition_point(|other| other.used <= share.used);
        self.turn.insert(place, share);
    }

    pub(super) fn runs_solo(&self, pick: &Pick) -> bool {
        if let Pick::Lane(token) = pick
            && self.lanes.get(token).is_some_and(|lane| lane.careful > 0)
        {
            return true;
        }
        let handler = self.handler_of(pick);
        handler.and_then(|handler| self.members.get(handler)).is_some_and(|member| member.solo > 0)
    }

    /// The next delivery: of the handler that has run for the shortest time and has one.
    pub(super) fn pick(&mut self, group: &Group) -> Option<Pick> {
        self.held_back = None;
        if self.outbox_is_full(group) {
            return None;
        }
        let now = crate::clock::now();
        for place in 0..self.turn.len() {
            let handler = self.turn.get(place)?.handler.clone();
            let full = self.is_full(group, &handler);
            let Some(member) = self.members.get_mut(&handler) else { continue };
            if let Some(until) = member.spent.rests_until() {
                if member.has_work() {
                    self.held_back = Some(self.held_back.map_or(until, |first| first.min(until)));
                }
                continue;
            }
            let reports = member.sends.len() > group.told.get(&handler).copied().unwrap_or(0);
            if reports && member.sends_first {
                member.sends_first = false;
                return Some(Pick::Completed(handler));
            }
            member.sends_first = true;
            let answered = group.answers.get(&handler).map_or(0, Vec::len);
            let request = member.requests.get(answered).is_some_and(|waiting| !full || waiting.aside.is_some());
            if request && member.requests_first {
                member.requests_first = false;
                return Some(Pick::Request(handler));
            }
            let spec = &member.live.environment.spec;
            let circuit = group.circuits.get(&handler).unwrap_or(&member.circuit);
            for _ in 0..member.ready.len() {
                let Some(token) = member.ready.pop_front() else { break };
                let Some(lane) = self.lanes.get_mut(&token) else { continue };
                let head = |full| lane.head(group.drafts.get(&token), &spec.retry, full, now).is_some();
                let runs = head(false);
                if runs && !((!full || head(true)) && circuit.lets(&spec.circuit, token.0, now)) {
                    // It stays listed until it may run.
                    member.ready.push_back(token);
                    continue;
                }
                lane.listed = false;
                if runs {
                    member.requests_first = true;
                    return Some(Pick::Lane(token));
                }
            }
            if request {
                return Some(Pick::Request(handler));
            }
            if reports {
                return Some(Pick::Completed(handler));
            }
        }
        None
    }

    pub(super) fn list_again(&mut self, group: &Group, pick: &Pick) {
        let Pick::Lane(token) = pick else { return };
        let Some((lane, member)) = self.lane(*token) else { return };
        let policy = &member.live.environment.spec.retry;
        // Whether the handler is full is seen when it is picked.
        if lane.head(group.drafts.get(token), policy, false, crate::clock::now()).is_some() {
            self.list(*token);
        }
    }

    pub(super) fn one_less_alone(&mut self, pick: &Pick) {
        if let Pick::Lane(token) = pick
            && let Some(lane) = self.lanes.get_mut(token)
        {
            lane.careful = lane.careful.saturating_sub(1);
        }
        if let Some(member) = self.member_of(pick) {
            member.solo = member.solo.saturating_sub(1);
        }
    }

    pub(super) fn keep_alone(&mut self, offender: &Pick) {
        if let Some(member) = self.member_of(offender) {
            member.solo = SOLO_AFTER_BREAK;
        }
    }
}
