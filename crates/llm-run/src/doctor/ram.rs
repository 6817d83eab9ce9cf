//! The machine's memory: how much there is, and how fast it is read.

use std::time::{Duration, Instant};

use anyhow::Result;
use llm_cpu::{Cpu, CpuOptions};
use llm_tensor::Bytes;
use serde::Serialize;

use super::extent::Extent;
use crate::system::{self, Limit, MemInfo, ProcessLimit, RamLimits, Room};

#[derive(Serialize)]
pub(super) struct Ram {
    /// Bytes of RAM; null where the system does not tell.
    total_bytes: Option<u64>,
    /// Bytes that programs can still take; null where the system does not tell.
    available_bytes: Option<u64>,
    /// Limits of control groups, the tightest first.
    limits: Vec<Limit>,
    /// Limits that the process is under by itself, the tightest first.
    process_limits: Vec<ProcessLimit>,
    #[serde(flatten)]
    room: Room,
}

impl Ram {
    pub(super) fn now() -> Self {
        let (memory, limits) = (MemInfo::now(), RamLimits::now());
        Ram {
            total_bytes: memory.map(|memory| memory.total.get()),
            available_bytes: memory.map(|memory| memory.available.get()),
            room: system::ram_of(memory, &limits),
            limits: limits.groups,
            process_limits: limits.process,
        }
    }

    /// Advice to raise a limit that leaves less than half of what the machine has available.
    pub(super) fn suggestions(&self) -> Option<String> {
        let available = self.available_bytes?;
        let free = self.room.free;
        (free.get() < available / 2).then(|| {
            format!(
                "raise the limit for larger models: the machine has {} available, and {} leaves {free} of it",
                Bytes::new(available),
                self.room.source
            )
        })
    }

    /// Bytes a second that all threads together read, as fast as kernels can: the median of several rounds.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(super) fn bandwidth(&self, extent: Extent) -> Result<f64> {
        let cpu = Cpu::new(CpuOptions::default())?;
        let size = extent.ram.get().min(self.room.bytes.get() / 4);
        let bytes = vec![1; (size as usize).max(LEAST_BYTES)];
        // The first round wakes the threads.
        cpu.read_through(&bytes);
        let begin = Instant::now();
        let mut rounds = Vec::new();
        while rounds.len() < LEAST_ROUNDS || begin.elapsed() < extent.ram_time {
            let begin = Instant::now();
            cpu.read_through(&bytes);
            rounds.push(begin.elapsed());
        }
        rounds.sort();
        let median = rounds[rounds.len() / 2].max(Duration::from_nanos(1));
        Ok(bytes.len() as f64 / median.as_secs_f64())
    }

    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let bytes = |n: Option<u64>| n.map_or("unknown".to_owned(), |n| Bytes::new(n).to_string());
        let (total, available) = (bytes(self.total_bytes), bytes(self.available_bytes));
        let mut rows = vec![("RAM", format!("{total}, available {available}"))];
        rows.extend(self.limits.iter().map(|limit| ("RAM limit", row(limit))));
        let of_process = self.process_limits.iter();
        rows.extend(of_process.map(|limit| ("RAM limit", limit.to_string())));
        if self.limits.is_empty() {
            rows.push(("RAM limit", "no cgroup's".to_owned()));
        }
        rows.push((
            "RAM for a model",
            format!("{}: {}", self.room.bytes, self.room),
        ));
        rows
    }
}

fn row(limit: &Limit) -> String {
    let Limit {
        version,
        folder,
        limit,
        usage,
        page_cache,
    } = limit;
    format!(
        "{limit} by cgroup v{} {}, of which {usage} are in use; {page_cache} of that are page cache",
        version.number(),
        folder.display()
    )
}

/// Bytes that are read even where hardly anything is free: more than most caches hold.
const LEAST_BYTES: usize = 16 << 20;
const LEAST_ROUNDS: usize = 3;
