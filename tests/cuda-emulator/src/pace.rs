//! Costs of work, for a timeline.

/// Costs of work on a device with one engine for kernels and one for copies each way. With it the driver keeps a virtual
/// clock ([`TimelineReport`](crate::report::TimelineReport)).
///
/// ```no_run
/// use cuda_emulator::harness::Machine;
/// use cuda_emulator::pace::Pace;
///
/// // A layer of ten kernels takes as long as its 100 kB.
/// let pace = Pace { launch: 1_000, to_device: 10_000_000_000, to_host: 10_000_000_000 };
/// let report = Machine::new().pace(pace).inside(|| { /* … streamed layers … */ });
/// if let Some(report) = report {
///     assert!(report.timelines[0].overlap() >= 0.9);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Nanoseconds of a kernel, of a fill, and of a copy within a device.
    pub launch: u64,
    /// Bytes a second from the host.
    pub to_device: u64,
    /// Bytes a second to the host.
    pub to_host: u64,
}

impl Pace {
    /// The value of an environment variable that stands for it.
    pub(crate) fn to_text(self) -> String {
        let Pace {
            launch,
            to_device,
            to_host,
        } = self;
        format!("{launch},{to_device},{to_host}")
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut numbers = text.split(',').map(|number| number.trim().parse().ok());
        let mut next = || numbers.next().flatten();
        Some(Pace {
            launch: next()?,
            to_device: next().filter(|rate| *rate > 0)?,
            to_host: next().filter(|rate| *rate > 0)?,
        })
    }
}
