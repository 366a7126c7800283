//! The supervisor's runtime, and the only file that names tokio-uring: one async thread, entered through io_uring where
//! the host allows it. Nothing that runs on it may need the ring, so that it runs the same where io_uring is refused.

use std::future::Future;
use std::io;

/// Runs a future to its end on a current-thread runtime.
///
/// # Errors
/// The runtime could not be set up (no descriptors left).
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    // tokio-uring panics where io_uring is refused, so it is asked first.
    if dataplane::sys::uring::available().is_ok() {
        return Ok(tokio_uring::start(future));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn timers_and_tasks_work_on_it() {
        let answer = super::block_on(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tokio::task::spawn_local(async { 42 }).await
        });
        assert!(matches!(answer, Ok(Ok(42))));
    }
}
