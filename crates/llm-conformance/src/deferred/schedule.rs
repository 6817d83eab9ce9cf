use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llm_backend::{Backend, BackendError, Event, Result};

use super::Fault;
use crate::data::Random;

/// Work that was put into the queues of a device and is not done yet.
pub(super) struct Schedule<B: Backend> {
    queues: Vec<Recorded<B>>,
    random: Random,
    fault: Option<Fault>,
    /// The first thing that went wrong.
    failed: Option<BackendError>,
}

/// Work of a queue.
struct Recorded<B: Backend> {
    queue: B::Queue,
    steps: VecDeque<Step<B>>,
    n_done: usize,
    /// A queue with scratch memory; the others bring.
    computes: bool,
}

enum Step<B: Backend> {
    Run(Operation<B>),
    /// Until so many steps of a queue are done.
    Wait {
        queue: usize,
        n_done: usize,
    },
}

pub(super) type Operation<B> = Box<dyn FnOnce(&mut <B as Backend>::Queue) -> Result<()> + Send>;

/// Work of other queues that is done when one is waited for.
#[derive(Clone, Copy)]
enum Others {
    /// As much as has to be.
    Needed,
    /// Some.
    Between,
    /// All that can be, before.
    First,
}

impl<B: Backend> Schedule<B> {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        Schedule {
            queues: Vec::new(),
            random: Random::new(seed),
            fault,
            failed: None,
        }
    }

    /// The number of a new queue.
    pub(super) fn add(&mut self, queue: B::Queue, computes: bool) -> usize {
        self.queues.push(Recorded {
            queue,
            steps: VecDeque::new(),
            n_done: 0,
            computes,
        });
        self.queues.len() - 1
    }

    pub(super) fn put(&mut self, queue: usize, operation: Operation<B>) {
        self.queues[queue].steps.push_back(Step::Run(operation));
    }

    /// Steps of a queue that will have been done when all are.
    pub(super) fn end(&self, queue: usize) -> usize {
        let queue = &self.queues[queue];
        queue.n_done + queue.steps.len()
    }

    /// Has a queue go on after so many steps of another.
    pub(super) fn put_wait(&mut self, waiting: usize, queue: usize, n_done: usize) {
        let forgotten = match self.fault {
            Some(Fault::ComputeBeforeBring) => {
                self.queues[waiting].computes && !self.queues[queue].computes
            }
            Some(Fault::BringBeforeLastUse) => {
                !self.queues[waiting].computes && self.queues[queue].computes
            }
            Some(Fault::FillBeforeBring) | None => false,
        };
        if !forgotten {
            let wait = Step::Wait { queue, n_done };
            self.queues[waiting].steps.push_back(wait);
        }
    }

    /// Does what is needed for so many steps of a queue to be done, and perhaps more.
    pub(super) fn run(&mut self, queue: usize, n_done: usize) -> Result<()> {
        let others = [Others::Needed, Others::Between, Others::First][self.random.below(3)];
        while self.queues[queue].n_done < n_done {
            let another = match others {
                Others::Needed => None,
                Others::Between => self.any_ready(None).filter(|_| self.random.below(2) == 0),
                Others::First => self.any_ready(Some(queue)),
            };
            let next = another.unwrap_or_else(|| self.first_needed(queue));
            self.step(next);
        }
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// The queue that has to go on first for this one to.
    fn first_needed(&self, mut queue: usize) -> usize {
        while let Some(awaited) = self.awaited(queue) {
            queue = awaited;
        }
        queue
    }

    /// The queue that another waits for.
    fn awaited(&self, queue: usize) -> Option<usize> {
        match self.queues[queue].steps.front() {
            Some(&Step::Wait { queue, n_done }) if self.queues[queue].n_done < n_done => {
                Some(queue)
            }
            Some(Step::Wait { .. } | Step::Run(_)) | None => None,
        }
    }

    /// One of the queues that can go on.
    fn any_ready(&mut self, except: Option<usize>) -> Option<usize> {
        let ready = (0..self.queues.len()).filter(|&queue| {
            let has_work = !self.queues[queue].steps.is_empty();
            has_work && self.awaited(queue).is_none() && Some(queue) != except
        });
        let ready: Vec<usize> = ready.collect();
        (!ready.is_empty()).then(|| ready[self.random.below(ready.len())])
    }

    fn step(&mut self, queue: usize) {
        let recorded = &mut self.queues[queue];
        recorded.n_done += 1;
        match recorded.steps.pop_front() {
            Some(Step::Run(operation)) => {
                if let Err(error) = operation(&mut recorded.queue) {
                    self.failed.get_or_insert(error);
                }
            }
            Some(Step::Wait { .. }) => {}
            None => panic!("work that somebody waits for was put into the queue"),
        }
    }

    /// Does all of a queue's work, and asks its backend's queue something.
    pub(super) fn ask(
        &mut self,
        queue: usize,
        question: impl FnOnce(&mut B::Queue) -> Result<()>,
    ) -> Result<()> {
        self.run(queue, self.end(queue))?;
        question(&mut self.queues[queue].queue)
    }
}

/// The end of a queue's work when it was recorded.
pub struct DeferredEvent<B: Backend> {
    pub(super) schedule: Arc<Mutex<Schedule<B>>>,
    pub(super) queue: usize,
    pub(super) n_done: usize,
}

impl<B: Backend> Event for DeferredEvent<B> {
    fn finish(&self) -> Result<()> {
        let mut schedule = lock(&self.schedule);
        match schedule.fault {
            Some(Fault::FillBeforeBring) => Ok(()),
            Some(Fault::ComputeBeforeBring | Fault::BringBeforeLastUse) | None => {
                schedule.run(self.queue, self.n_done)
            }
        }
    }
}

impl<B: Backend> Clone for DeferredEvent<B> {
    fn clone(&self) -> Self {
        DeferredEvent {
            schedule: Arc::clone(&self.schedule),
            ..*self
        }
    }
}

/// The memory, also after a panic: whoever reports that may look at it.
pub(super) fn lock<T>(memory: &Mutex<T>) -> MutexGuard<'_, T> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}
