//! Kernels that are right: their results, and what the report says of them.

use cuda_emulator::harness::{Machine, report};

use crate::lab::{Arg, BASICS, Lab, at};

#[test]
fn sums_of_blocks_are_exact() {
    Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        let values: Vec<f32> = (0..1024).map(|k| (k % 17) as f32).collect();
        let (x, y) = (lab.put(&values), lab.room(4));
        lab.launch("block_sum", 4, 256, &[at(&x), at(&y)])
            .expect("a launch");
        let wanted: Vec<f32> = values.chunks(256).map(|block| block.iter().sum()).collect();
        assert_eq!(lab.get(&y), wanted);
    });
}

#[test]
fn lanes_that_go_different_ways_meet_again() {
    Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        let values: Vec<i32> = (1..=300).collect();
        let (x, y) = (lab.put(&values), lab.put(&vec![0i32; 300]));
        let args = [at(&x), at(&y), Arg::Int(300)];
        lab.launch("ways", 3, 128, &args).expect("a launch");
        let steps = |start: i32| {
            let chain = std::iter::successors(Some(start), |v| {
                Some(if v % 2 == 1 { 3 * v + 1 } else { v / 2 })
            });
            chain.take_while(|v| *v > 1).count() as i32
        };
        let wanted: Vec<i32> = values.iter().map(|v| steps(*v)).collect();
        assert_eq!(lab.get(&y), wanted);
    });
}

#[test]
fn atomic_sums_lose_nothing_when_blocks_run_side_by_side() {
    Machine::new().threads(2).inside(|| {
        let lab = Lab::new(BASICS);
        let n = 100_000;
        let values: Vec<u32> = (0..n).collect();
        let x = lab.put(&values);
        let (sum, threads) = (lab.put(&[0u32]), lab.put(&[0u32]));
        let args = [at(&x), at(&sum), at(&threads), Arg::Int(n as i32)];
        lab.launch("atomic_sum", n.div_ceil(256), 256, &args)
            .expect("a launch");
        let wanted = values
            .iter()
            .fold(0u32, |sum, value| sum.wrapping_add(*value));
        assert_eq!(lab.get(&sum), [wanted]);
        assert_eq!(lab.get(&threads), [n]);
    });
}

#[test]
fn bytes_moved_are_counted() {
    let outside = Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        let (x, y) = (lab.put(&vec![1f32; 4096]), lab.room(4096));
        let _odd = lab.room(1);
        let args = [at(&x), at(&y), Arg::Int(4096), Arg::Float(2.0)];
        lab.launch("scale", 16, 256, &args).expect("a launch");
        assert_eq!(lab.get(&y), vec![2f32; 4096]);
        let inside = report().expect("a report");
        assert_eq!(inside.kernels["scale"].read.moved, 4096 * 4);
        assert_eq!(inside.devices[0].allocated, 2 * 4096 * 4 + 512);
        assert_eq!(inside.devices[0].asked, 2 * 4096 * 4 + 4);
    });
    let Some(report) = outside else { return };
    let scale = &report.kernels["scale"];
    assert_eq!(scale.launches, 1);
    assert_eq!((scale.read.asked, scale.read.moved), (16384, 16384));
    assert_eq!((scale.written.asked, scale.written.moved), (16384, 16384));
    assert_eq!(scale.read.sector_efficiency(), 1.0);
    assert_eq!(report.bytes_to_device, 16384);
    assert_eq!(report.bytes_to_host, 16384);
    assert!(report.faults.is_empty());
    assert_eq!(report.devices[0].peak, 2 * 4096 * 4 + 512);
}

#[test]
fn functions_that_are_called_return() {
    Machine::new().inside(|| {
        let lab = Lab::new(BASICS);
        assert!(BASICS.contains("call.uni"), "the calls are not inlined");
        let values: Vec<f32> = (0..40).map(|k| k as f32).collect();
        let (x, y) = (lab.put(&values), lab.room(40));
        lab.launch("calls", 2, 32, &[at(&x), at(&y), Arg::Int(40)])
            .expect("a launch");
        let twice = |value: f32, n: usize| if n > 3 { value * 2.0 } else { value + 1.0 };
        let wanted: Vec<f32> = (0..40)
            .map(|k| {
                let once = twice(values[k], k);
                if k % 2 == 1 { once } else { twice(once, k) }
            })
            .collect();
        assert_eq!(lab.get(&y), wanted);
    });
}
