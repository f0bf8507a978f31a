//! What a second of the timing wheel costs with a million monitors of one minute.
#![allow(missing_docs, reason = "criterion makes public functions")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lamplighter::schedule::plan::SLOTS_PER_SECOND;
use lamplighter::schedule::wheel::Wheel;

const MONITORS: u32 = 1_000_000;
const PERIOD: u64 = 60 * SLOTS_PER_SECOND;

fn full() -> Wheel {
    let mut wheel = Wheel::new(0);
    for key in 0..MONITORS {
        wheel.schedule(key, 1 + u64::from(key).wrapping_mul(0x9e37_79b9) % PERIOD);
    }
    wheel
}

fn a_second(criterion: &mut Criterion) {
    let mut wheel = full();
    let mut out = Vec::new();
    let mut slot = 0;
    let mut group = criterion.benchmark_group("wheel");
    group.throughput(Throughput::Elements(u64::from(MONITORS) / 60));
    group.bench_function("release and schedule again", |bencher| {
        bencher.iter(|| {
            for _ in 0..SLOTS_PER_SECOND {
                slot += 1;
                wheel.release(slot, &mut out);
                for released in out.drain(..) {
                    wheel.schedule(released.key, released.slot + PERIOD);
                }
            }
        });
    });
    group.finish();
}

fn edits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wheel");
    group.sample_size(10).throughput(Throughput::Elements(u64::from(MONITORS)));
    group.bench_function("fill", |bencher| bencher.iter(full));
    group.bench_function("move every monitor", |bencher| {
        bencher.iter_batched_ref(
            full,
            |wheel| {
                for key in 0..MONITORS {
                    wheel.schedule(key, 1 + u64::from(key) % PERIOD);
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, a_second, edits);
criterion_main!(benches);
