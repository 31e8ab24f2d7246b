// SPDX-License-Identifier: GPL-2.0

//! Passes over pages that are known from the pass before and all differ, in nanoseconds per page.
//!
//! `KSM_V_MOST_PAGES` says up to how many pages (2^20 if not set): each takes 4 KiB.

use criterion::criterion_group;
use criterion::criterion_main;
use criterion::BenchmarkId;
use criterion::Criterion;
use criterion::Throughput;
use ksm_v_hostbench::engine_index::Index;
use ksm_v_hostbench::memory;
use ksm_v_hostbench::rb_tree::Tree;
use std::time::Duration;

fn passes(criterion: &mut Criterion) {
    let most = std::env::var("KSM_V_MOST_PAGES").map_or(1 << 20, |text| {
        text.parse().expect("KSM_V_MOST_PAGES: expected a number")
    });
    let mut group = criterion.benchmark_group("pass");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_secs(5));
    for count in (16..=22).step_by(2).map(|bits| 1 << bits) {
        if count > most {
            break;
        }
        let pages = memory::unlike_pages(count);
        group.throughput(Throughput::Elements(count as u64));
        let mut index = Index::default();
        index.pass(&pages);
        group.bench_function(BenchmarkId::new("ksm_v", count), |bencher| {
            // A few pages have the key of another page: keys are hashes.
            bencher.iter(|| assert!(index.pass(&pages) <= count >> 16));
        });
        let mut tree = Tree::new(count);
        tree.pass(&pages);
        group.bench_function(
            BenchmarkId::new("xxh64 and red-black tree", count),
            |bencher| {
                bencher.iter(|| assert_eq!(tree.pass(&pages), 0));
            },
        );
    }
    group.finish();
}

criterion_group!(benches, passes);
criterion_main!(benches);
