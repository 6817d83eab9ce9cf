//! Memory that parcels take turns in.

use llm_backend::{Allocation, Backend, Queue};
use llm_tensor::Bytes;

use super::Key;
use crate::{Result, RuntimeError};

/// A few equal pieces of memory. Who asks what is spare says what is needed soon, which stays.
pub(super) struct Slots<B: Backend, M> {
    slots: Vec<Slot<B, M>>,
    bytes: Bytes,
    /// Uses so far.
    n_uses: u64,
}

/// One of them.
enum Slot<B: Backend, M> {
    Empty(Staged<B, M>),
    /// The reader has it.
    Filling(Key),
    Filled(Key, Staged<B, M>),
    /// It is computed with.
    Used(Key, Staged<B, M>),
    /// Nobody said when what was put into the queue with it ends.
    Left(Key, Staged<B, M>),
    Failed(Key, Box<RuntimeError>, Staged<B, M>),
    /// While it is made into another.
    Taken,
}

/// Memory, and the ends of what is done with it.
pub(super) struct Staged<B: Backend, M> {
    pub(super) memory: M,
    /// Of the copy that brings what lies in it; nothing where the reader wrote it.
    pub(super) brought: Option<B::Event>,
    /// Of the last that reads it: a computation, or the copy that brings it on.
    pub(super) used: Option<B::Event>,
    /// The number of that use.
    use_idx: u64,
}

impl<B: Backend, M> Slot<B, M> {
    fn empty(memory: M) -> Self {
        Slot::Empty(Staged {
            memory,
            brought: None,
            used: None,
            use_idx: 0,
        })
    }
}

impl<B: Backend, M> Slots<B, M> {
    /// `n` empty ones.
    pub(super) fn new(n: usize, memory: impl Fn() -> Result<M>) -> Result<Self>
    where
        M: Allocation,
    {
        let memories: Vec<M> = (0..n).map(|_| memory()).collect::<Result<_>>()?;
        Ok(Slots {
            bytes: memories.iter().map(M::bytes).sum(),
            slots: memories.into_iter().map(Slot::empty).collect(),
            n_uses: 0,
        })
    }

    /// Size of all.
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The one that has a parcel, or will.
    pub(super) fn find(&self, key: Key) -> Option<usize> {
        let has = |slot: &Slot<B, M>| match slot {
            Slot::Filling(k)
            | Slot::Filled(k, _)
            | Slot::Used(k, _)
            | Slot::Left(k, _)
            | Slot::Failed(k, _, _) => *k == key,
            Slot::Empty(_) | Slot::Taken => false,
        };
        self.slots.iter().position(has)
    }

    /// True if a parcel lies there.
    pub(super) fn is_filled(&self, key: Key) -> bool {
        let at = self.find(key);
        at.is_some_and(|at| matches!(self.slots[at], Slot::Filled(..)))
    }

    /// True if the reader has some.
    pub(super) fn are_filling(&self) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| matches!(slot, Slot::Filling(_)))
    }

    /// One that nobody uses, and that does not hold what is needed `soon`, unless it is needed `at_once` for what is not: of
    /// several the one whose last use was first, since that ends first.
    pub(super) fn spare(&self, at_once: bool, soon: &[Key]) -> Option<usize> {
        let kept = &soon[..soon.len().min(self.len() - usize::from(at_once))];
        let rank = |slot: &Slot<B, M>| match slot {
            Slot::Empty(staged) => Some((0, staged.use_idx)),
            Slot::Filled(key, staged) | Slot::Failed(key, _, staged) => match kept.contains(key) {
                false => Some((0, staged.use_idx)),
                true => at_once.then_some((1, staged.use_idx)),
            },
            Slot::Filling(_) | Slot::Used(..) | Slot::Left(..) | Slot::Taken => None,
        };
        let ranked = self.slots.iter().enumerate();
        let ranked = ranked.filter_map(|(i, slot)| Some((rank(slot)?, i)));
        ranked.min().map(|(_, i)| i)
    }

    /// The memory of a spare one, for the reader to fill.
    pub(super) fn begin(&mut self, at: usize, key: Key) -> Staged<B, M> {
        let staged = self.take(at);
        self.slots[at] = Slot::Filling(key);
        staged
    }

    /// The memory of a spare one, whose contents are forgotten.
    pub(super) fn take(&mut self, at: usize) -> Staged<B, M> {
        match std::mem::replace(&mut self.slots[at], Slot::Taken) {
            Slot::Empty(staged) | Slot::Filled(_, staged) | Slot::Failed(_, _, staged) => staged,
            Slot::Filling(_) | Slot::Used(..) | Slot::Left(..) | Slot::Taken => {
                unreachable!("a spare slot is not in use")
            }
        }
    }

    /// Puts memory back whose contents are not needed.
    pub(super) fn put_empty(&mut self, at: usize, mut staged: Staged<B, M>) {
        self.n_uses += 1;
        staged.use_idx = self.n_uses;
        self.slots[at] = Slot::Empty(staged);
    }

    /// Puts memory back whose filling has ended.
    pub(super) fn put(&mut self, at: usize, key: Key, staged: Staged<B, M>, outcome: Result<()>) {
        self.slots[at] = match outcome {
            Ok(()) => Slot::Filled(key, staged),
            Err(error) => Slot::Failed(key, Box::new(error), staged),
        };
    }

    /// Gives up on a parcel that could not be had, for another try.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn give_up(&mut self, key: Key) -> Result<()> {
        let failed = |slot: &Slot<B, M>| matches!(slot, Slot::Failed(k, ..) if *k == key);
        let Some(at) = self.slots.iter().position(failed) else {
            return Ok(());
        };
        match std::mem::replace(&mut self.slots[at], Slot::Taken) {
            Slot::Failed(_, error, staged) => {
                self.slots[at] = Slot::Empty(staged);
                Err(*error)
            }
            other => {
                self.slots[at] = other;
                Ok(())
            }
        }
    }

    /// Takes a filled one into use, after what `queue` has to wait for; nothing where it is not filled yet.
    ///
    /// # Errors
    /// Why it was not filled, and when the device fails.
    pub(super) fn lease(&mut self, key: Key, queue: &mut B::Queue) -> Result<Option<usize>> {
        self.give_up(key)?;
        let Some(at) = self.find(key) else {
            return Ok(None);
        };
        match std::mem::replace(&mut self.slots[at], Slot::Taken) {
            Slot::Filled(_, staged) => {
                let is_there = match &staged.brought {
                    Some(brought) => queue.wait(brought),
                    None => Ok(()),
                };
                match is_there {
                    Ok(()) => {
                        self.slots[at] = Slot::Used(key, staged);
                        Ok(Some(at))
                    }
                    Err(error) => {
                        self.slots[at] = Slot::Left(key, staged);
                        Err(error.into())
                    }
                }
            }
            Slot::Used(..) => unreachable!("{key:?} is asked for while it is used"),
            filling => {
                self.slots[at] = filling;
                Ok(None)
            }
        }
    }

    /// Finds out when the use of those ends of which nobody said so: with all that is in the queue.
    pub(super) fn settle(&mut self, queue: &mut B::Queue) -> Result<()> {
        for slot in &mut self.slots {
            if !matches!(slot, Slot::Left(..)) {
                continue;
            }
            let end = queue.record()?;
            if let Slot::Left(key, mut staged) = std::mem::replace(slot, Slot::Taken) {
                staged.used = Some(end);
                *slot = Slot::Filled(key, staged);
            }
        }
        Ok(())
    }

    /// Leaves one that is used.
    pub(super) fn abandon(&mut self, at: usize) {
        self.n_uses += 1;
        let slot = &mut self.slots[at];
        if let Slot::Used(key, mut staged) = std::mem::replace(slot, Slot::Taken) {
            staged.use_idx = self.n_uses;
            *slot = Slot::Left(key, staged);
        }
    }

    /// The key and the memory of one that is used.
    pub(super) fn used(&self, at: usize) -> (Key, &M) {
        match &self.slots[at] {
            Slot::Used(key, staged) => (*key, &staged.memory),
            Slot::Empty(_)
            | Slot::Filling(_)
            | Slot::Filled(..)
            | Slot::Left(..)
            | Slot::Failed(..)
            | Slot::Taken => unreachable!("a leased slot is in use"),
        }
    }
}
