use std::sync::atomic::AtomicU32;

use super::*;

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads).unwrap())
}

#[test]
fn every_index_is_visited_once() {
    for threads in 1..=5 {
        let pool = pool(threads);
        for count in [0, 1, 2, 3, 7, 64, 1000] {
            let visits: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
            pool.run(count, &|range| {
                for index in range {
                    visits[index].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(
                visits
                    .iter()
                    .all(|visit| visit.load(Ordering::Relaxed) == 1),
                "{threads} {count}"
            );
        }
    }
}

#[test]
fn the_partition_is_contiguous_and_fixed() {
    let parts: Vec<_> = (0..4).map(|index| part(10, 4, index)).collect();
    assert_eq!(parts, [0..3, 3..6, 6..8, 8..10]);
}

#[test]
fn workers_run_tasks_also_after_parking() {
    let pool = pool(3);
    for _ in 0..3 {
        thread::sleep(std::time::Duration::from_millis(5));
        // Each of the three ranges waits for the others, so three threads must be at work.
        let barrier = std::sync::Barrier::new(3);
        pool.run(3, &|_| {
            barrier.wait();
        });
    }
}

#[test]
fn nested_runs_execute_in_place() {
    let pool = pool(2);
    let sum = AtomicUsize::new(0);
    pool.run(2, &|outer| {
        pool.run(10, &|inner| {
            assert_eq!(inner, 0..10, "one range, in place");
            sum.fetch_add(outer.len() * inner.len(), Ordering::Relaxed);
        });
    });
    assert_eq!(sum.into_inner(), 20);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = pool(4);
    for culprit in 0..4 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pool.run(4, &|range| {
                assert!(!range.contains(&culprit), "task {culprit} fails")
            });
        }));
        let panic = outcome.expect_err("the panic is passed on");
        assert_eq!(
            panic.downcast_ref::<String>(),
            Some(&format!("task {culprit} fails"))
        );
        let count = AtomicUsize::new(0);
        pool.run(4, &|range| {
            count.fetch_add(range.len(), Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 4);
    }
}

#[test]
fn callers_on_several_threads_take_turns() {
    let pool = pool(3);
    let total = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    pool.run(7, &|range| {
                        total.fetch_add(range.len(), Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 4 * 200 * 7);
}

#[test]
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn a_changed_floating_point_environment_stops_the_work() {
    let set = |state: u32| {
        // SAFETY: loads MXCSR from four readable bytes; the value only changes rounding modes, and is put back below
        // before other floating-point code runs.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const state, options(nostack, preserves_flags))
        }
    };
    for state in [0x9f80, 0x1fc0, 0x3f80] {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            set(state);
            environment::assert_default();
        }));
        set(0x1f80);
        assert!(outcome.is_err(), "{state:#x}");
    }
}
