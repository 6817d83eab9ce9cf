//! A thread that answers whoever asks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use llm_runtime::{Interrupt, RuntimeError, Session};
use llm_text::Tokenizer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::batch::{Batch, Ended, Pace, most_sequences};
use crate::client::{Client, Token};
use crate::generation::{Completion, Generation};
use crate::settings::Settings;
use crate::stats::{Counts, Stats};
use crate::{EngineError, Result};

/// A thread that owns a session and answers requests, as many at a time as there are sequences, in the order in which they
/// came.
pub struct Engine {
    inbox: Option<Sender<Job>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Session>>,
    n_sequences: usize,
    n_positions: usize,
    max_waiting: usize,
}

/// Prompt to be answered.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its tokens.
    pub prompt: Vec<u32>,
    /// Settings of the answer.
    pub settings: Settings,
}

/// Part of an answer; exhaustive, as whoever takes it has to know its end.
#[derive(Debug)]
pub enum Event {
    /// The next token.
    Token(Token),
    /// The end: the last event.
    Ended(Completion),
    /// The end of an answer that failed: the last event.
    Failed(EngineError),
}

/// An answer that is being made. Dropping it cancels the request: within one pass its sequence is another's.
///
/// What is not taken out yet is kept: at most the tokens that the answer may have.
#[derive(Debug)]
pub struct Handle {
    events: UnboundedReceiver<Event>,
    cancel: Arc<Cancel>,
}

/// Reason why a request is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Busy {
    /// Too many wait already.
    #[error("{n_waiting} requests wait already")]
    Full {
        /// Requests that wait.
        n_waiting: usize,
    },
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

impl Engine {
    /// Starts an engine on all sequences of a session, with at most `max_waiting` requests waiting for one.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        session: Session,
        tokenizer: Option<Arc<Tokenizer>>,
        max_waiting: usize,
    ) -> std::io::Result<Self> {
        let limits = *session.limits();
        let shared = Arc::new(Shared {
            interrupt: session.interrupt(),
            is_ending: AtomicBool::new(false),
            counts: Counts::default(),
        });
        let (inbox, jobs) = channel();
        let theirs = Arc::clone(&shared);
        let work = move || run(session, tokenizer.as_deref(), &jobs, &theirs);
        let thread = std::thread::Builder::new().name("engine".to_owned());
        Ok(Engine {
            inbox: Some(inbox),
            thread: Some(thread.spawn(work)?),
            shared,
            n_sequences: most_sequences(&limits),
            n_positions: most_sequences(&limits) * limits.context,
            max_waiting,
        })
    }

    /// Puts a request into the queue. Whatever is wrong with it is told by its events.
    ///
    /// # Errors
    /// When the queue is full, or the engine has ended.
    pub fn submit(&self, request: Request) -> std::result::Result<Handle, Busy> {
        let mut handles = self.submit_all(vec![request])?;
        handles.pop().ok_or(Busy::Ended)
    }

    /// Puts requests into the queue: all of them, or none.
    ///
    /// # Errors
    /// As [`Engine::submit`].
    pub fn submit_all(&self, requests: Vec<Request>) -> std::result::Result<Vec<Handle>, Busy> {
        let (n_new, n_waiting) = (requests.len(), &self.shared.counts.n_waiting);
        let fits = |n: usize| n.checked_add(n_new).filter(|n| *n <= self.max_waiting);
        let counted = n_waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        counted.map_err(|n_waiting| Busy::Full { n_waiting })?;
        let inbox = self.inbox.as_ref().ok_or(Busy::Ended)?;
        let submit = |request| {
            let (sender, events) = unbounded_channel();
            let cancel = Arc::new(Cancel::default());
            let asker = Asker {
                events: sender,
                cancel: Arc::clone(&cancel),
                shared: Arc::clone(&self.shared),
            };
            inbox
                .send(Job { request, asker })
                .map_err(|_| Busy::Ended)?;
            Ok(Handle { events, cancel })
        };
        requests.into_iter().map(submit).collect()
    }

    /// Counts of what was done.
    pub fn stats(&self) -> Stats {
        self.shared.counts.stats(self.n_sequences, self.n_positions)
    }

    /// True while requests are answered. An engine ends by itself only by a fault of its own.
    pub fn is_alive(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the engine within one pass: answers that are being made end as they are, those that wait are empty.
    ///
    /// # Panics
    /// When its thread has panicked.
    pub fn end(mut self) -> Session {
        let thread = self.stop().expect("an engine ends once");
        let session = thread.join();
        session.unwrap_or_else(|fault| std::panic::resume_unwind(fault))
    }

    fn stop(&mut self) -> Option<JoinHandle<Session>> {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        self.shared.interrupt.raise();
        self.inbox = None;
        self.thread.take()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(thread) = self.stop() {
            // Its panic was told where it happened.
            let _ = thread.join();
        }
    }
}

impl Handle {
    /// The next event; nothing after the last one, or when the engine ends by a fault.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// The same for whoever polls.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }

    /// The same for whoever may block.
    ///
    /// # Panics
    /// In an asynchronous context.
    pub fn wait(&mut self) -> Option<Event> {
        self.events.blocking_recv()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Before the interrupt is looked for: a sequence that is given away at the same time finds one or the other.
        self.cancel.is_gone.store(true, Ordering::SeqCst);
        if let Some(interrupt) = &*self.cancel.interrupt() {
            interrupt.raise();
        }
    }
}

/// What an engine and its thread have in common.
struct Shared {
    /// The session's.
    interrupt: Interrupt,
    is_ending: AtomicBool,
    counts: Counts,
}

/// What a handle and its request have in common.
#[derive(Debug, Default)]
struct Cancel {
    is_gone: AtomicBool,
    /// Interrupt of the sequence, while the request has one.
    interrupt: Mutex<Option<Interrupt>>,
}

impl Cancel {
    fn interrupt(&self) -> std::sync::MutexGuard<'_, Option<Interrupt>> {
        let interrupt = self.interrupt.lock();
        interrupt.unwrap_or_else(PoisonError::into_inner)
    }
}

struct Job {
    request: Request,
    asker: Asker,
}

/// The side of a handle that its answer is given to.
struct Asker {
    events: UnboundedSender<Event>,
    cancel: Arc<Cancel>,
    shared: Arc<Shared>,
}

impl Asker {
    fn tell(&self, event: Event) {
        // Whoever is gone needs no answer.
        let _ = self.events.send(event);
    }
}

impl Client for Asker {
    fn token(&mut self, token: Token) {
        let n_made = &self.shared.counts.n_made_tokens;
        n_made.fetch_add(1, Ordering::Relaxed);
        self.tell(Event::Token(token));
    }

    fn is_gone(&self) -> bool {
        self.cancel.is_gone.load(Ordering::SeqCst)
    }

    fn begin(&mut self, interrupt: Interrupt) {
        let mut slot = self.cancel.interrupt();
        if self.is_gone() {
            interrupt.raise();
        }
        *slot = Some(interrupt);
    }

    fn leave(&mut self) {
        // Nobody raises it from here on.
        if let Some(interrupt) = self.cancel.interrupt().take() {
            interrupt.clear();
        }
    }
}

/// Answers requests until nobody can make any more.
fn run(
    mut session: Session,
    tokenizer: Option<&Tokenizer>,
    jobs: &Receiver<Job>,
    shared: &Shared,
) -> Session {
    let n_sequences = most_sequences(session.limits());
    let mut work = Work {
        batch: Batch::new(&mut session, n_sequences, Pace::Pass),
        waiting: VecDeque::new(),
        tokenizer,
        shared,
    };
    while work.receive(jobs) {
        work.forget_gone();
        let outcome = work.begin().and_then(|()| work.advance());
        if let Err(error) = outcome {
            work.fail(error);
        }
        work.count();
    }
    work.stop(jobs);
    session
}

struct Work<'a> {
    batch: Batch<'a, Asker>,
    waiting: VecDeque<Job>,
    tokenizer: Option<&'a Tokenizer>,
    shared: &'a Shared,
}

impl<'a> Work<'a> {
    /// Takes requests that have come, waiting for one if there is nothing else to do; false at the end.
    fn receive(&mut self, jobs: &Receiver<Job>) -> bool {
        if self.batch.is_empty() && self.waiting.is_empty() {
            let Ok(job) = jobs.recv() else {
                return false;
            };
            self.waiting.push_back(job);
        }
        self.waiting.extend(jobs.try_iter());
        !self.shared.is_ending.load(Ordering::Relaxed)
    }

    fn forget_gone(&mut self) {
        let n_before = self.waiting.len();
        self.waiting.retain(|job| !job.asker.is_gone());
        let n_gone = n_before - self.waiting.len();
        let counts = &self.shared.counts;
        counts.n_waiting.fetch_sub(n_gone, Ordering::Relaxed);
        counts
            .n_cancelled
            .fetch_add(n_gone as u64, Ordering::Relaxed);
    }

    /// Begins as many requests as there are sequences for.
    fn begin(&mut self) -> Result<()> {
        while let Some(job) = self.waiting.front() {
            let is_search = job.request.settings.beams.is_some();
            // A search takes all sequences: those who came later wait with it, so that its turn comes.
            let can_begin = match is_search {
                true => self.batch.is_empty(),
                false => self.batch.has_room(),
            };
            let Some(Job { request, asker }) =
                can_begin.then(|| self.waiting.pop_front()).flatten()
            else {
                break;
            };
            self.shared.counts.n_waiting.fetch_sub(1, Ordering::Relaxed);
            let ended = match self.generation(request) {
                Err(error) => Some((asker, Err(error))),
                Ok(generation) if is_search => Some(self.batch.alone(asker, generation)),
                Ok(generation) => self.batch.add(asker, generation)?,
            };
            ended.into_iter().for_each(|ended| self.tell(ended));
        }
        Ok(())
    }

    /// The beginning of an answer.
    ///
    /// # Errors
    /// When there is none to such a prompt.
    fn generation(&self, request: Request) -> Result<Generation<'a>> {
        let Request { prompt, settings } = request;
        let session = self.batch.session();
        session.check_prompt(&prompt)?;
        Generation::new(session.spec(), self.tokenizer, settings, &prompt)
    }

    fn advance(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.count();
        let n_before = self.batch.len();
        let ended = self.batch.advance()?;
        let n_gone = n_before - self.batch.len() - ended.len();
        let counts = &self.shared.counts;
        counts
            .n_cancelled
            .fetch_add(n_gone as u64, Ordering::Relaxed);
        counts.n_passes.fetch_add(1, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| self.tell(ended));
        Ok(())
    }

    /// Hands out the end of an answer.
    fn tell(&self, (asker, outcome): Ended<Asker>) {
        let counts = &self.shared.counts;
        let event = match outcome {
            _ if asker.is_gone() => {
                counts.n_cancelled.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Ok(completion) => {
                counts.end(&completion);
                Event::Ended(completion)
            }
            Err(error) => {
                counts.n_failed.fetch_add(1, Ordering::Relaxed);
                Event::Failed(error)
            }
        };
        asker.tell(event);
    }

    /// Ends all answers that are being made by an error of the session, which may do better with the next ones.
    fn fail(&mut self, error: EngineError) {
        if matches!(error.of_runtime(), Some(RuntimeError::Interrupted)) {
            let ended = self.batch.interrupt();
            ended.into_iter().for_each(|ended| self.tell(ended));
            return;
        }
        let error = Arc::new(error);
        for asker in self.batch.clear() {
            self.tell((asker, Err(EngineError::OfAll(Arc::clone(&error)))));
        }
    }

    /// Tells all who are still there of the engine's end.
    fn stop(&mut self, jobs: &Receiver<Job>) {
        let ended = self.batch.interrupt();
        ended.into_iter().for_each(|ended| self.tell(ended));
        self.waiting.extend(jobs.try_iter());
        for job in std::mem::take(&mut self.waiting) {
            let interrupted = EngineError::from(RuntimeError::Interrupted);
            self.tell((job.asker, Err(interrupted)));
        }
        self.count();
        self.shared.counts.n_waiting.store(0, Ordering::Relaxed);
    }

    fn count(&self) {
        let (session, counts) = (self.batch.session(), &self.shared.counts);
        let held = (0..session.limits().n_sequences).map(|sequence| session.len(sequence));
        counts.n_held.store(held.sum(), Ordering::Relaxed);
        counts.n_running.store(self.batch.len(), Ordering::Relaxed);
    }
}
