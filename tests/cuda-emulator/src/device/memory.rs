//! Regions by address. Device addresses are not host addresses: the host cannot read through one by mistake, and far gaps
//! between regions make an over-read of any length miss its neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::written::Written;

/// Where a region lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// Memory of a device, by its ordinal.
    Device(usize),
    /// Page-locked memory of the host, which every device can reach.
    Host,
}

/// One allocation.
pub(crate) struct Region {
    pub(crate) base: u64,
    pub(crate) len: u64,
    pub(crate) home: Home,
    pub(crate) written: Written,
    /// Bytes of its device's memory that it counts for.
    charged: u64,
    bytes: *mut u8,
    /// Owner of the bytes, but for memory that the host registered.
    storage: Option<Box<[Block16]>>,
}

/// Unit of allocation, so that vectors of 16 bytes are aligned in the host as well.
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Block16([u8; 16]);

#[expect(
    unsafe_code,
    reason = "the pointer is into memory that the region owns or that the host pinned"
)]
// SAFETY: kernels reach the bytes through relaxed atomics only, copies through the one lock of the driver.
unsafe impl Send for Region {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Pointer to the byte at `address`, which lies inside.
    #[inline(always)]
    pub(crate) fn pointer(&self, address: u64) -> *mut u8 {
        debug_assert!(address >= self.base && address < self.base + self.len);
        self.bytes.wrapping_add((address - self.base) as usize)
    }

    fn of_host(base: u64, len: u64, storage: Option<Box<[Block16]>>) -> Self {
        Self {
            base,
            len,
            home: Home::Host,
            written: Written::everything(),
            charged: 0,
            bytes: std::ptr::null_mut(),
            storage,
        }
    }

    pub(crate) fn end(&self) -> u64 {
        self.base + self.len
    }
}

/// Bytes of one memory.
pub(crate) struct InUse {
    pub(crate) now: u64,
    pub(crate) peak: u64,
    /// Bytes of the regions before they are rounded up.
    pub(crate) asked: u64,
}

/// Regions of all devices and of the host.
pub(crate) struct Memory {
    regions: BTreeMap<u64, Arc<Region>>,
    /// Past allocations, by address: for messages.
    freed: BTreeMap<u64, u64>,
    next: u64,
    /// By device; last the page-locked memory of the host.
    used: Vec<u64>,
    peak: Vec<u64>,
    /// By device.
    capacities: Vec<u64>,
    /// Regions in order, made when first asked for after a change.
    snapshot: Option<Arc<[Arc<Region>]>>,
}

impl Memory {
    pub(crate) fn new(capacities: Vec<u64>) -> Self {
        let n_devices = capacities.len();
        Self {
            regions: BTreeMap::new(),
            freed: BTreeMap::new(),
            next: FIRST_ADDRESS,
            used: vec![0; n_devices + 1],
            peak: vec![0; n_devices + 1],
            capacities,
            snapshot: None,
        }
    }

    /// A new region of a device, or nothing if its memory is full. Bytes are all ones: NaN in every type of float.
    pub(crate) fn allocate(&mut self, device: usize, len: u64) -> Option<u64> {
        let charged = len.next_multiple_of(ALIGN);
        if self.used[device].checked_add(charged)? > self.capacities[device] {
            return None;
        }
        self.charge(device, charged);
        Some(self.place(device, len, charged))
    }

    fn charge(&mut self, at: usize, bytes: u64) {
        self.used[at] += bytes;
        self.peak[at] = self.peak[at].max(self.used[at]);
    }

    /// Memory for a variable of a module, which comes with the module and counts for nothing.
    pub(crate) fn allocate_variable(&mut self, device: usize, len: u64) -> u64 {
        self.place(device, len, 0)
    }

    fn place(&mut self, device: usize, len: u64, charged: u64) -> u64 {
        let base = self.next;
        self.next = (base + len + GAP).next_multiple_of(ALIGN);
        let region = Region {
            base,
            len,
            home: Home::Device(device),
            written: Written::nothing(len),
            charged,
            bytes: std::ptr::null_mut(),
            storage: Some(storage(len)),
        };
        self.insert(region);
        base
    }

    /// Page-locked memory of the host: its address is a pointer.
    pub(crate) fn allocate_host(&mut self, len: u64) -> u64 {
        let storage = storage(len);
        let base = storage.as_ptr() as u64;
        self.insert(Region::of_host(base, len, Some(storage)));
        base
    }

    /// Memory of the host that becomes page-locked where it lies.
    pub(crate) fn register_host(&mut self, base: u64, len: u64) {
        self.insert(Region::of_host(base, len, None));
    }

    fn insert(&mut self, mut region: Region) {
        if region.home == Home::Host {
            self.charge(self.used.len() - 1, region.len);
        }
        region.bytes = match &mut region.storage {
            Some(storage) => storage.as_mut_ptr().cast(),
            None => region.base as *mut u8,
        };
        self.regions.insert(region.base, Arc::new(region));
        self.snapshot = None;
    }

    /// Ends the region that begins at `base` and lies in such a home; `false` if there is none.
    pub(crate) fn free(&mut self, base: u64, is_host: bool) -> bool {
        let Some(region) = self.regions.get(&base) else {
            return false;
        };
        if (region.home == Home::Host) != is_host {
            return false;
        }
        match region.home {
            Home::Device(device) => {
                self.used[device] -= region.charged;
                self.freed.insert(base, region.len);
            }
            Home::Host => {
                let host = self.used.len() - 1;
                self.used[host] -= region.len;
            }
        }
        self.regions.remove(&base);
        self.snapshot = None;
        true
    }

    pub(crate) fn free_bytes(&self, device: usize) -> u64 {
        self.capacities[device] - self.used[device]
    }

    /// What is in use, by device; last the page-locked memory of the host.
    pub(crate) fn in_use(&self) -> Vec<InUse> {
        let mut out: Vec<InUse> = self
            .used
            .iter()
            .zip(&self.peak)
            .map(|(now, peak)| InUse {
                now: *now,
                peak: *peak,
                asked: 0,
            })
            .collect();
        for region in self.regions.values() {
            match region.home {
                Home::Device(device) if region.charged > 0 => out[device].asked += region.len,
                // Variables of modules.
                Home::Device(_) => {}
                Home::Host => out[self.used.len() - 1].asked += region.len,
            }
        }
        out
    }

    /// Region that all of `n` bytes from `address` on lie in.
    pub(crate) fn find(&self, address: u64, n: u64) -> Option<&Arc<Region>> {
        let (_, region) = self.regions.range(..=address).next_back()?;
        (address.checked_add(n)? <= region.end()).then_some(region)
    }

    /// What an address without a region is: past the end of one, freed, or nowhere.
    pub(crate) fn describe(&self, address: u64) -> String {
        describe(
            address,
            self.regions
                .range(..=address)
                .next_back()
                .map(|(_, region)| (region.base, region.len)),
            self.freed
                .range(..=address)
                .next_back()
                .map(|(b, n)| (*b, *n)),
        )
    }

    /// Regions as a kernel on `device` sees them.
    pub(crate) fn view(&mut self, device: usize) -> View {
        let regions = self
            .snapshot
            .get_or_insert_with(|| self.regions.values().cloned().collect());
        View {
            regions: regions.clone(),
            device,
            last: 0,
        }
    }
}

fn describe(address: u64, before: Option<(u64, u64)>, freed: Option<(u64, u64)>) -> String {
    match (before, freed) {
        (_, Some((base, len))) if address < base + len => format!(
            "{address:#x} lies {} bytes into an allocation of {len} bytes that was freed",
            address - base
        ),
        (Some((base, len)), _) if address < base + len + GAP => format!(
            "{address:#x} lies {} bytes into an allocation of {len} bytes",
            address - base
        ),
        _ => format!("{address:#x} lies in no allocation"),
    }
}

fn storage(len: u64) -> Box<[Block16]> {
    vec![Block16([0xff; 16]); len.div_ceil(16) as usize].into()
}

/// Regions at the time of a launch, with the one that was last looked up.
#[derive(Clone)]
pub(crate) struct View {
    regions: Arc<[Arc<Region>]>,
    device: usize,
    last: usize,
}

impl View {
    /// Region with all of the bytes from `address` to `end`, if the device may touch it.
    #[inline(always)]
    pub(crate) fn find(&mut self, address: u64, end: u64) -> Option<&Region> {
        let holds = |region: &Region| address >= region.base && end <= region.end();
        let is_hit = self.regions.get(self.last).is_some_and(|r| holds(r));
        if !is_hit {
            let after = self
                .regions
                .partition_point(|region| region.base <= address);
            let at = after.checked_sub(1)?;
            let region = &self.regions[at];
            let is_reachable = match region.home {
                Home::Device(device) => device == self.device,
                Home::Host => true,
            };
            if !holds(region) || !is_reachable {
                return None;
            }
            self.last = at;
        }
        Some(&self.regions[self.last])
    }

    /// What is wrong with an address that [`Self::find`] found nothing for.
    pub(crate) fn describe(&self, address: u64) -> String {
        let after = self
            .regions
            .partition_point(|region| region.base <= address);
        let before = after.checked_sub(1).map(|at| &self.regions[at]);
        match before {
            Some(region) if address < region.end() && region.home != Home::Device(self.device) => {
                format!("{address:#x} lies in memory of another device")
            }
            _ => describe(address, before.map(|r| (r.base, r.len)), None),
        }
    }
}

/// Neither an address of the host nor one of the windows of shared and local memory.
const FIRST_ADDRESS: u64 = 0x1000_0000_0000;
const GAP: u64 = 16 << 20;
/// Alignment of every allocation, as the driver has it.
const ALIGN: u64 = 512;
