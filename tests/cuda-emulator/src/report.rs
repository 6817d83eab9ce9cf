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

/// Bytes between memory and a kernel, in one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// Bytes that instructions asked for; what several lanes of one ask for counts once.
    pub asked: u64,
    /// Sectors of 32 bytes that instructions touched.
    pub sectors: u64,
    /// Bytes of the sectors that a launch touched at all: what memory moves behind a cache that forgets nothing.
    pub moved: u64,
}

impl TrafficReport {
    /// Share of the bytes of all touched sectors that were asked for; 1 where nothing was touched.
    #[must_use]
    pub fn sector_efficiency(&self) -> f64 {
        if self.sectors == 0 {
            return 1.0;
        }
        self.asked as f64 / (self.sectors * 32) as f64
    }
}
