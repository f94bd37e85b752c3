//! A small executor: tasks in a slab, woken tasks in a queue, each at most once.
//!
//! Futures need not be `Send`: wakers carry only a number and the queue. Spawning allocates; waking and polling do not.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use spin::Mutex;

/// A future that a kernel runs to its end.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks that were woken, oldest first.
#[derive(Default)]
struct Ready(Mutex<VecDeque<Arc<Handle>>>);

/// What a waker knows of its task.
struct Handle {
    place: usize,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.0.lock().push_back(Arc::clone(self));
        }
    }
}

struct Task {
    work: Work,
    handle: Arc<Handle>,
    waker: Waker,
}

/// Adds tasks, from anywhere in the kernel.
#[derive(Clone, Default)]
pub struct Spawner(Rc<RefCell<VecDeque<Work>>>);

impl Spawner {
    /// Starts a task. It is polled for the first time after the current one has returned.
    pub fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        self.0.borrow_mut().push_back(Box::pin(work));
    }
}

/// The tasks of a kernel.
#[derive(Default)]
pub struct Executor {
    tasks: Vec<Option<Task>>,
    ready: Arc<Ready>,
    spawner: Spawner,
}

impl Executor {
    /// An executor without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle that adds tasks.
    pub fn spawner(&self) -> Spawner {
        self.spawner.clone()
    }

    /// Tasks that have not ended.
    pub fn len(&self) -> usize {
        self.tasks.iter().flatten().count()
    }

    /// Whether every task has ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether some task was woken or added.
    pub fn is_ready(&self) -> bool {
        !self.spawner.0.borrow().is_empty() || !self.ready.0.lock().is_empty()
    }

    /// Polls woken tasks, `limit` at most, so that events and timers get their turn.
    pub fn poll(&mut self, limit: usize) {
        for _ in 0..limit {
            self.adopt();
            let Some(handle) = self.ready.0.lock().pop_front() else { return };
            // Before the poll: a wake-up during it queues the task again.
            handle.queued.store(false, Ordering::Release);
            let Some(place) = self.tasks.get_mut(handle.place) else { continue };
            // A waker may outlive its task, and the place may have another one since.
            let Some(task) = place.as_mut().filter(|task| Arc::ptr_eq(&task.handle, &handle)) else {
                continue;
            };
            if task.work.as_mut().poll(&mut Context::from_waker(&task.waker)) == Poll::Ready(()) {
                *place = None;
            }
        }
    }

    fn adopt(&mut self) {
        loop {
            let Some(work) = self.spawner.0.borrow_mut().pop_front() else { return };
            let place = self.tasks.iter().position(Option::is_none).unwrap_or(self.tasks.len());
            if place == self.tasks.len() {
                self.tasks.push(None);
                // Each task is queued at most once (old wakers aside), so this is room for all of them.
                self.ready.0.lock().reserve(self.tasks.len());
            }
            let ready = Arc::clone(&self.ready);
            let handle = Arc::new(Handle { place, queued: AtomicBool::new(false), ready });
            let waker = Waker::from(Arc::clone(&handle));
            waker.wake_by_ref();
            if let Some(free) = self.tasks.get_mut(place) {
                *free = Some(Task { work, handle, waker });
            }
        }
    }
}

/// Gives the other tasks a turn.
pub async fn yield_now() {
    let mut yielded = false;
    core::future::poll_fn(|context| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn tasks_run_until_they_end() {
        let mut executor = Executor::new();
        let count = Rc::new(Cell::new(0));
        let spawner = executor.spawner();
        for turns in 0..10 {
            let count = Rc::clone(&count);
            spawner.spawn(async move {
                for _ in 0..turns {
                    count.set(count.get() + 1);
                    yield_now().await;
                }
            });
        }
        let inner = Rc::clone(&count);
        let again = spawner.clone();
        spawner.spawn(async move {
            again.spawn(async move { inner.set(inner.get() + 1000) });
        });
        while executor.is_ready() {
            executor.poll(3);
        }
        assert_eq!(count.get(), 1045);
        assert!(executor.is_empty());
    }

    #[test]
    fn old_wakers_wake_nobody_else() {
        let mut executor = Executor::new();
        let old = Rc::new(RefCell::new(None));
        let keep = Rc::clone(&old);
        executor.spawner().spawn(core::future::poll_fn(move |context| {
            *keep.borrow_mut() = Some(context.waker().clone());
            Poll::Ready(())
        }));
        executor.poll(10);
        let polls = Rc::new(Cell::new(0));
        let seen = Rc::clone(&polls);
        executor.spawner().spawn(core::future::poll_fn(move |_| {
            seen.set(seen.get() + 1);
            Poll::Pending
        }));
        executor.poll(10);
        old.borrow().as_ref().unwrap().wake_by_ref();
        executor.poll(10);
        assert_eq!((polls.get(), executor.len()), (1, 1));
    }

    #[test]
    fn a_wake_up_during_the_poll_is_not_lost() {
        let mut executor = Executor::new();
        let polls = Rc::new(Cell::new(0));
        let seen = Rc::clone(&polls);
        executor.spawner().spawn(core::future::poll_fn(move |context| {
            seen.set(seen.get() + 1);
            context.waker().wake_by_ref();
            context.waker().wake_by_ref();
            if seen.get() == 5 { Poll::Ready(()) } else { Poll::Pending }
        }));
        executor.poll(100);
        assert_eq!(polls.get(), 5);
    }
}
