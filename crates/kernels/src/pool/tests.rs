//! The pool under stress: every task once, no hang, panics arrive.

use super::*;
use std::sync::atomic::AtomicU64;

fn check_each_task_once(pool: &Pool, tasks: usize) {
    let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
    pool.run(tasks, &|task| {
        counts[task].fetch_add(1, Ordering::Relaxed);
    });
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{tasks} tasks");
}

#[test]
fn runs_each_task_exactly_once() {
    for threads in [0, 1, 2, 3, 8] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for tasks in [0, 1, 2, 3, 7, 64, 1000] {
            check_each_task_once(&pool, tasks);
        }
    }
}

#[test]
fn many_short_regions_in_a_row() {
    let pool = Pool::new(4);
    let sum = AtomicU64::new(0);
    for region in 0..20_000_u64 {
        pool.run(5, &|task| {
            sum.fetch_add(region * 5 + task as u64, Ordering::Relaxed);
        });
    }
    let n = 20_000_u64 * 5;
    assert_eq!(sum.into_inner(), n * (n - 1) / 2);
}

#[test]
fn wakes_sleeping_workers() {
    let pool = Pool::new(3);
    for _ in 0..20 {
        thread::sleep(WORKER_SPIN * 5);
        check_each_task_once(&pool, 9);
    }
}

#[test]
fn borrowed_results_are_complete_on_return() {
    let pool = Pool::new(4);
    for round in 0..2000_usize {
        let mut values = vec![0_usize; 37];
        let slots: Vec<Mutex<&mut usize>> = values.iter_mut().map(Mutex::new).collect();
        pool.run(37, &|task| **slots[task].lock().unwrap() = task + round);
        drop(slots);
        assert!(values.iter().enumerate().all(|(task, value)| *value == task + round));
    }
}

#[test]
fn nested_regions_run_in_place() {
    let pool = Pool::new(4);
    let count = AtomicUsize::new(0);
    pool.run(8, &|_| {
        pool.run(8, &|_| {
            pool.run(2, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        });
    });
    assert_eq!(count.into_inner(), 128);
}

#[test]
fn several_threads_share_a_pool() {
    let pool = Pool::new(3);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                for tasks in 1..400 {
                    check_each_task_once(&pool, tasks % 17);
                }
            });
        }
    });
}

#[test]
fn worker_numbers_are_never_shared_at_one_time() {
    let pool = Pool::new(4);
    for _ in 0..500 {
        let taken: Vec<AtomicBool> = (0..pool.threads()).map(|_| AtomicBool::new(false)).collect();
        pool.run_on_workers(40, &|_, worker| {
            assert!(!taken[worker].swap(true, Ordering::AcqRel));
            std::hint::spin_loop();
            taken[worker].store(false, Ordering::Release);
        });
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(4);
    for bad in [0, 5, 31] {
        let ran = AtomicUsize::new(0);
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(32, &|task| {
                ran.fetch_add(1, Ordering::Relaxed);
                assert!(task != bad, "task {bad} fails");
            });
        }));
        let payload = result.expect_err("the panic is passed on");
        assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("task {bad} fails"));
        assert!(ran.into_inner() <= 32);
        check_each_task_once(&pool, 100);
    }
}

#[test]
fn every_task_may_panic() {
    let pool = Pool::new(3);
    for _ in 0..50 {
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(20, &|_| panic!("all fail"))));
        assert!(result.is_err());
    }
    check_each_task_once(&pool, 10);
}

#[test]
fn an_oversubscribed_pool_makes_progress() {
    let pool = Pool::new(32);
    for _ in 0..50 {
        check_each_task_once(&pool, 64);
    }
}

#[test]
fn pools_come_and_go() {
    for _ in 0..50 {
        check_each_task_once(&Pool::new(3), 4);
    }
}
