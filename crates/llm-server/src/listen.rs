//! Connections: how many there are, what ends them, and the end of all.

use std::io;
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Sleep, sleep, timeout};

use crate::loading::Loading;
use crate::routes::router;
use crate::site::{Options, Served, Site};
use crate::stop::Stop;

/// Serves the model that `load` loads, on a thread of its own, until `stop` is asked for or loading fails. It is told where to
/// report how far it is. Answers that are being written at the end have half a minute to come to theirs.
///
/// # Errors
/// When loading fails, or the operating system.
pub fn serve<E: From<io::Error> + Send + 'static>(
    listener: TcpListener,
    options: Options,
    stop: &Stop,
    load: impl FnOnce(&Loading) -> Result<Served, E> + Send + 'static,
) -> Result<(), E> {
    // Computing has the processors; what is done here is little.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let site = Arc::new(Site::new(options, stop.clone()));
    let (sender, loaded) = oneshot::channel();
    let loading = site.loading.clone();
    let work = move || drop(sender.send(load(&loading)));
    let loader = std::thread::Builder::new()
        .name("load".to_owned())
        .spawn(work)?;
    let outcome = runtime.block_on(listen(listener, &site, loaded));
    // Loading that was broken off has ended, or does soon.
    let joined = loader.join();
    outcome?;
    joined.unwrap_or_else(|fault| std::panic::resume_unwind(fault));
    Ok(())
}

async fn listen<E: From<io::Error>>(
    listener: TcpListener,
    site: &Arc<Site>,
    loaded: oneshot::Receiver<Result<Served, E>>,
) -> Result<(), E> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = router(site);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let stop = &site.stop;
    let mut stopped = pin!(stop.asked());
    let mut loaded = pin!(loaded);
    let mut is_loading = true;
    loop {
        let next = async {
            // Who comes when all are taken waits in the system's queue.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        tokio::select! {
            biased;
            () = &mut stopped => break,
            outcome = &mut loaded, if is_loading => {
                is_loading = false;
                // Without an outcome its thread has panicked, which is told when it is joined.
                let Ok(served) = outcome else { return Ok(()) };
                site.open(served?);
            }
            (place, accepted) = next => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, router.clone(), stop.clone());
                    tokio::spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                // Too many open files, for one: some will be closed.
                Err(_) => sleep(Duration::from_millis(50)).await,
            },
        }
    }
    drop(listener);
    if is_loading && let Ok(Err(error)) = loaded.await {
        return Err(error);
    }
    let all = u32::try_from(MOST_CONNECTIONS).unwrap_or(u32::MAX);
    // What is still written then is broken off.
    let _ = timeout(GRACE, places.acquire_many(all)).await;
    Ok(())
}

/// Connections at a time.
const MOST_CONNECTIONS: usize = 512;

/// Time that answers have to come to their ends.
const GRACE: Duration = Duration::from_secs(30);

/// Time within which the head of a request has to come,
const HEAD_TIME: Duration = Duration::from_secs(30);

/// and a client has to take something of what is written to it.
const WRITE_TIME: Duration = Duration::from_secs(60);

async fn connection(stream: TcpStream, router: Router, stop: Stop) {
    // Tokens are small, and are to be there at once.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Impatient::new(stream));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        // Whoever goes away, or sends what is no request, is told nothing more.
        _ = connection.as_mut() => return,
        () = stop.asked() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Bytes of a request's head at most, and of what is kept of a body or an answer.
const HEAD_BYTES: usize = 64 << 10;

/// A connection that ends when its client does not take what is written to it.
struct Impatient {
    stream: TcpStream,
    /// Runs while the client takes nothing.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Impatient {
    fn new(stream: TcpStream) -> Self {
        Impatient {
            stream,
            patience: None,
        }
    }

    /// Waits with what could not be written, for so long.
    fn wait<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self
            .patience
            .get_or_insert_with(|| Box::pin(sleep(WRITE_TIME)));
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Impatient {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Impatient {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wait(written, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.wait(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
