//! Clients whose request has not been read yet. Whoever connects and says nothing must not keep others out: when all places are taken, the
//! one that has been silent for longest goes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::task::AbortHandle;

/// All of them, by the order in which they came. As many as there are places for clients.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    tasks: RefCell<BTreeMap<u64, Option<AbortHandle>>>,
    last: RefCell<u64>,
}

/// One of them, until it is heard.
#[derive(Debug)]
pub(super) struct Ticket {
    unheard: Rc<Unheard>,
    number: u64,
}

impl Unheard {
    /// One more.
    pub(super) fn enter(self: &Rc<Self>) -> Ticket {
        let mut last = self.last.borrow_mut();
        *last = last.wrapping_add(1);
        self.tasks.borrow_mut().insert(*last, None);
        Ticket { unheard: Rc::clone(self), number: *last }
    }

    /// The one that came last is served by this task.
    pub(super) fn is_served_by(&self, task: AbortHandle) {
        if let Some(mut entry) = self.tasks.borrow_mut().last_entry() {
            entry.insert(Some(task));
        }
    }

    /// Ends the task of the one that came first. False: there is none.
    pub(super) fn evict(&self) -> bool {
        let first = self.tasks.borrow_mut().pop_first();
        let Some((_, Some(task))) = first else { return false };
        task.abort();
        true
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.unheard.tasks.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::{JoinSet, LocalSet};

    #[tokio::test]
    async fn who_came_first_goes_first_and_who_was_heard_stays() {
        let scenario = async {
            let unheard = Rc::new(Unheard::default());
            let mut tasks = JoinSet::new();
            for number in 0..3 {
                let ticket = unheard.enter();
                let task = tasks.spawn_local(async move {
                    if number == 0 {
                        drop(ticket);
                    }
                    std::future::pending::<()>().await;
                });
                unheard.is_served_by(task);
            }
            tokio::task::yield_now().await;
            assert!(unheard.evict() && unheard.evict());
            assert!(!unheard.evict(), "the first one was heard");
            assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
            assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
            assert_eq!(tasks.len(), 1);
        };
        LocalSet::new().run_until(scenario).await;
    }
}
