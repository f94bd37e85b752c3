//! Free runs of frames, in lists by size. The links are in the frames' records: a free run's first frame links it, and its
//! `b` word says where its predecessor is; other frames of a run are marked as such.

use super::{Frame, KIND, LARGEST_ORDER};
use crate::prelude::*;

/// End of a list.
const NONE: u32 = u32::MAX;
/// Bits of the state word that say the order of a free run, plus one, in its first frame; 0 in all others.
const ORDER_SHIFT: u32 = 16;

pub(super) struct Buddies {
    heads: [u32; LARGEST_ORDER as usize + 1],
    /// The frame that was freed last, in no list: joining runs and splitting them again for one page costs more than all
    /// else that is done with it.
    spare: Option<u32>,
}

impl Buddies {
    pub(super) const fn new() -> Self {
        Self { heads: [NONE; LARGEST_ORDER as usize + 1], spare: None }
    }

    /// Adds a free run. Its frames are already marked free.
    pub(super) fn insert(&mut self, frames: &[Frame], start: u32, order: u32) {
        let (Some(frame), Some(head)) = (frames.get(start as usize), self.heads.get_mut(order as usize))
        else {
            return;
        };
        set_order(frame, order + 1);
        frame.a.store(*head, Ordering::Relaxed);
        frame.b.store(NONE, Ordering::Relaxed);
        if let Some(next) = frames.get(*head as usize) {
            next.b.store(start, Ordering::Relaxed);
        }
        *head = start;
    }

    /// Takes a run out of its list.
    fn remove(&mut self, frames: &[Frame], start: u32, order: u32) {
        let Some(frame) = frames.get(start as usize) else { return };
        let (next, previous) = (frame.a.load(Ordering::Relaxed), frame.b.load(Ordering::Relaxed));
        set_order(frame, 0);
        if let Some(next) = frames.get(next as usize) {
            next.b.store(previous, Ordering::Relaxed);
        }
        match frames.get(previous as usize) {
            Some(previous) => previous.a.store(next, Ordering::Relaxed),
            None => {
                if let Some(head) = self.heads.get_mut(order as usize) {
                    *head = next;
                }
            }
        }
    }

    /// A run of exactly this order from frames below `limit`, split from the smallest that is large enough. Without a limit
    /// it is the first of a list.
    pub(super) fn take(&mut self, frames: &[Frame], order: u32, limit: u32) -> Option<u32> {
        if order == 0
            && let Some(start) = self.spare.take_if(|start| *start < limit)
        {
            return Some(start);
        }
        for found in order..=LARGEST_ORDER {
            let mut at = self.heads.get(found as usize).copied().unwrap_or(NONE);
            while let Some(frame) = frames.get(at as usize) {
                if at.checked_add(1 << order).is_some_and(|end| end <= limit) {
                    self.remove(frames, at, found);
                    for half in (order..found).rev() {
                        self.insert(frames, at + (1 << half), half);
                    }
                    return Some(at);
                }
                at = frame.a.load(Ordering::Relaxed);
            }
        }
        let spare = self.spare.take()?;
        self.join(frames, spare, 0);
        self.take(frames, order, limit)
    }

    /// Frees a run that is aligned to its size.
    pub(super) fn free(&mut self, frames: &[Frame], start: u32, order: u32) {
        if order == 0 && self.spare.is_none() {
            self.spare = Some(start);
        } else {
            self.join(frames, start, order);
        }
    }

    /// Joins a free run with its buddies.
    fn join(&mut self, frames: &[Frame], start: u32, order: u32) {
        let (mut start, mut order) = (start, order);
        while order < LARGEST_ORDER {
            let buddy = start ^ (1 << order);
            let Some(other) = frames.get(buddy as usize) else { break };
            if free_order(other) != Some(order) {
                break;
            }
            self.remove(frames, buddy, order);
            start = start.min(buddy);
            order += 1;
        }
        self.insert(frames, start, order);
    }
}

fn set_order(frame: &Frame, order_plus_one: u32) {
    let state = frame.state.load(Ordering::Relaxed) & ((1 << ORDER_SHIFT) - 1);
    frame.state.store(state | order_plus_one << ORDER_SHIFT, Ordering::Relaxed);
}

/// The order of the free run that starts with this frame.
fn free_order(frame: &Frame) -> Option<u32> {
    let state = frame.state.load(Ordering::Relaxed);
    if state & KIND != FrameKind::Free as u32 {
        return None;
    }
    (state >> ORDER_SHIFT).checked_sub(1)
}
