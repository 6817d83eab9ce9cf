//! What a process did with the emulated driver, for the test that started it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Account of a process, up to now or to its end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One entry a device, by ordinal.
    pub devices: Vec<DeviceReport>,
    /// Page-locked memory of the host, allocated or registered.
    pub pinned: DeviceReport,
    /// Kernels by name.
    pub kernels: BTreeMap<String, KernelReport>,
    /// Virtual time, one entry a device, where work has costs ([`Machine::pace`](crate::harness::Machine::pace)).
    #[serde(default)]
    pub timelines: Vec<TimelineReport>,
    /// Calls that launched a kernel, wherever it was to run.
    #[serde(default)]
    pub kernel_launches: u64,
    /// Calls that launched a graph.
    #[serde(default)]
    pub graph_launches: u64,
    /// Calls in which the host waited for a device.
    pub host_synchronizations: u64,
    /// Bytes copied from the host to devices.
    pub bytes_to_device: u64,
    /// Bytes copied from devices to the host.
    pub bytes_to_host: u64,
    /// Bytes copied from the memory of one device to that of another.
    pub bytes_between_devices: u64,
    /// Those of them that went through the host, since neither device was let reach the other's memory.
    pub bytes_staged: u64,
    /// Faults of kernels and modules that could not be loaded, in order.
    pub faults: Vec<String>,
}

/// Memory in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Bytes allocated now, each allocation rounded up as the driver does it.
    pub allocated: u64,
    /// Most bytes allocated at once.
    pub peak: u64,
    /// Bytes that the allocations of now were asked for with.
    pub asked: u64,
}

/// Virtual time of a device's engines, in nanoseconds: of the work that the host has waited for, and at the end of the
/// process of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineReport {
    /// Time in which kernels ran.
    pub compute: u64,
    /// Time in which bytes came from the host.
    pub to_device: u64,
    /// Time in which bytes went to the host.
    pub to_host: u64,
    /// Begin of the first work.
    pub begin: u64,
    /// End of the last.
    pub end: u64,
}

impl Report {
    /// Kernels that ran since an earlier report of the same process.
    #[must_use]
    pub fn kernels_since(&self, earlier: &Self) -> BTreeMap<String, KernelReport> {
        let none = KernelReport::default();
        let ran = self.kernels.iter().map(|(name, kernel)| {
            let earlier = earlier.kernels.get(name).unwrap_or(&none);
            (name.clone(), kernel.since(earlier))
        });
        ran.filter(|(_, kernel)| kernel.launches > 0).collect()
    }
}

impl TimelineReport {
    /// Time from the first work to the last.
    #[must_use]
    pub fn makespan(&self) -> u64 {
        self.end - self.begin
    }

    /// Share of the copies that lies behind kernels, or of the kernels behind copies where they are less: 0 where one waits
    /// for the other, 1 where the less is hidden. Below 0 where nothing runs at times; 1 where there is nothing to hide.
    #[must_use]
    pub fn overlap(&self) -> f64 {
        let copies = self.to_device + self.to_host;
        let less = self.compute.min(copies);
        if less == 0 {
            return 1.0;
        }
        ((self.compute + copies) as f64 - self.makespan() as f64) / less as f64
    }

    /// Account of what came after an earlier report of the same process.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            compute: self.compute - earlier.compute,
            to_device: self.to_device - earlier.to_device,
            to_host: self.to_host - earlier.to_host,
            begin: self.begin.max(earlier.end),
            end: self.end,
        }
    }
}

/// All launches of one kernel, added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelReport {
    /// Launches that ran.
    pub launches: u64,
    /// Instructions of warps.
    pub instructions: u64,
    /// Instructions of lanes that took part.
    pub lane_instructions: u64,
    /// Seconds that the interpreter took.
    pub seconds: f64,
    /// Bytes read and written.
    pub read: TrafficReport,
    /// Bytes written.
    pub written: TrafficReport,
}

impl KernelReport {
    /// Account of what came after an earlier report of the same process.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            launches: self.launches - earlier.launches,
            instructions: self.instructions - earlier.instructions,
            lane_instructions: self.lane_instructions - earlier.lane_instructions,
            seconds: self.seconds - earlier.seconds,
            read: self.read.since(&earlier.read),
            written: self.written.since(&earlier.written),
        }
    }
}

/// Bytes between memory and a kernel, in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Bytes that instructions asked for; what several lanes of one ask for counts once.
    pub asked: u64,
    /// Sectors of 32 bytes that instructions touched.
    pub sectors: u64,
    /// Bytes of the sectors that a launch touched at all: what memory moves behind a cache that forgets nothing.
    pub moved: u64,
    /// Sectors that were fetched for blocks, or written by them, of allocations that have a tenth or more of what their launch
    /// moved, both ways. What a block's own first cache still has of its loads is not fetched again.
    #[serde(default)]
    pub fetched_of_large: u64,
    /// Bytes of these that instructions asked for, while the first cache had them.
    #[serde(default)]
    pub used_of_large: u64,
}

impl TrafficReport {
    /// Share of the bytes of all touched sectors that were asked for; 1 where nothing was touched.
    #[must_use]
    pub fn sector_efficiency(&self) -> f64 {
        efficiency(self.asked, self.sectors)
    }

    /// Share of the bytes that come from the second cache and are of use, and of those that go there, in the allocations that
    /// most of the bytes lie in: a scale that is read for every row, from a cache, is not among them. The rest of a sector that
    /// a later load of the block asks for is of use as long as its first cache has it.
    #[must_use]
    pub fn large_sector_efficiency(&self) -> f64 {
        efficiency(self.used_of_large, self.fetched_of_large)
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            asked: self.asked - earlier.asked,
            sectors: self.sectors - earlier.sectors,
            moved: self.moved - earlier.moved,
            used_of_large: self.used_of_large - earlier.used_of_large,
            fetched_of_large: self.fetched_of_large - earlier.fetched_of_large,
        }
    }

    /// Sum of two accounts.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            asked,
            sectors,
            moved,
            used_of_large,
            fetched_of_large,
        } = other;
        self.asked += asked;
        self.sectors += sectors;
        self.moved += moved;
        self.used_of_large += used_of_large;
        self.fetched_of_large += fetched_of_large;
    }
}

fn efficiency(asked: u64, sectors: u64) -> f64 {
    match sectors {
        0 => 1.0,
        sectors => asked as f64 / (sectors * 32) as f64,
    }
}
