//! The end of a server.

use std::sync::Arc;

use tokio::sync::watch;

/// Asks a server to end; clones ask the same one.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(Arc::new(watch::channel(false).0))
    }
}

impl Stop {
    /// Has it take no more connections, bring its answers to their ends, and end.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Waits until that is asked for.
    pub(crate) async fn asked(&self) {
        // It cannot fail: the sender is this one.
        let _ = self.0.subscribe().wait_for(|is_asked| *is_asked).await;
    }
}
