//! Something that goes on in the background of a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A thread that does a step over and over until it is told to end, and what it found.
#[derive(Debug)]
pub struct Worker<T> {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts with a value, which each step may change.
    pub fn start(mut value: T, mut step: impl FnMut(&mut T) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                step(&mut value);
            }
            value
        });
        Self { stop, thread: Some(thread) }
    }

    /// Ends it after the step that it is at; the value.
    #[track_caller]
    pub fn finish(mut self) -> T {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.take().expect("a worker has one thread");
        thread.join().expect("a worker panicked")
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
