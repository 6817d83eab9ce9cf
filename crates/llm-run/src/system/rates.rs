//! Bandwidths of memories, each with its origin.

use std::fmt;
use std::path::{Path, PathBuf};

use llm_plan::Bandwidths;
use serde::Serialize;

use super::{Gpu, Kept, Machine, Measurement, Volume, cache_folder};

/// Bytes a second, each figure with how it is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    pub(crate) bandwidths: Bandwidths,
    pub(crate) ram: Origin,
    pub(crate) disk: Origin,
    /// Of a GPU's memory and of the way there.
    pub(crate) gpu: Origin,
}

/// Origin of a figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "origin", rename_all = "snake_case")]
pub(crate) enum Origin {
    /// `llm-run doctor` measured it on this machine.
    Measured {
        /// The day, as 2026-07-06.
        date: String,
        #[serde(skip)]
        days_ago: i64,
        /// Of a disk: where.
        #[serde(skip_serializing_if = "Option::is_none")]
        folder: Option<PathBuf>,
    },
    /// Usual figures of such a machine.
    Assumed {
        /// Reason why a measurement that there is does not count.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl Origin {
    pub(crate) fn is_measured(&self) -> bool {
        match self {
            Origin::Measured { .. } => true,
            Origin::Assumed { .. } => false,
        }
    }
}

/// `measured on this machine on 2026-07-06`, or `assumed`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Measured {
                date,
                days_ago,
                folder,
            } => {
                f.write_str("measured on this machine")?;
                if let Some(folder) = folder {
                    write!(f, " in {}", folder.display())?;
                }
                write!(f, " on {date}")?;
                if *days_ago > OLD {
                    write!(f, ", {days_ago} days ago")?;
                }
                Ok(())
            }
            Origin::Assumed { reason: None } => f.write_str("assumed"),
            Origin::Assumed {
                reason: Some(reason),
            } => write!(f, "assumed: {reason}"),
        }
    }
}

impl Rates {
    /// Rates of this machine. `files` are those, or the folders of those, that would be read from disk: what was
    /// measured of another disk does not count, nor what was of another GPU than `gpu`.
    pub(crate) fn of(files: &[PathBuf], gpu: Option<&Gpu>) -> Self {
        let kept = cache_folder().map(|folder| Measurement::read(&folder, &Machine::this()));
        Self::of_kept(kept.unwrap_or(Kept::Nothing), gpu, &|measured| {
            let is_same = |file: &PathBuf| {
                let volume = Volume::of(file);
                volume.is_some_and(|volume| volume.is_same(measured))
            };
            files.iter().all(is_same)
        })
    }

    fn of_kept(kept: Kept, gpu: Option<&Gpu>, is_volume: &dyn Fn(Volume) -> bool) -> Self {
        let assumed = |reason: Option<String>| Rates {
            bandwidths: USUAL,
            ram: Origin::Assumed {
                reason: reason.clone(),
            },
            disk: Origin::Assumed { reason },
            gpu: Origin::Assumed { reason: None },
        };
        let kept = match kept {
            Kept::Nothing => return assumed(None),
            Kept::Elsewhere(date) => {
                return assumed(Some(format!(
                    "what was measured on {date} was another machine, other processors or another version"
                )));
            }
            Kept::Here(kept) => kept,
        };
        let (date, days_ago) = (kept.date(), kept.days_ago());
        let measured = |folder: Option<&Path>| Origin::Measured {
            date: date.clone(),
            days_ago,
            folder: folder.map(Path::to_owned),
        };
        let disk = &kept.bandwidth.disk;
        let folder = disk.folder.as_deref();
        let (rate, origin) = match (disk.rate, disk.volume) {
            (Some(rate), Some(volume)) if is_volume(volume) => (rate, measured(folder)),
            (Some(_), _) => {
                let of = folder.map_or(String::new(), |f| format!(", that of {}", f.display()));
                let reason = Some(format!("what was measured on {date} was another disk{of}"));
                (USUAL.disk, Origin::Assumed { reason })
            }
            (None, _) => {
                let reason = Some(format!("no disk could be measured on {date}"));
                (USUAL.disk, Origin::Assumed { reason })
            }
        };
        let of_gpu = kept.bandwidth.gpus.iter().find(|measured| {
            gpu.is_some_and(|gpu| (gpu.number, &gpu.name) == (measured.number, &measured.name))
        });
        Rates {
            bandwidths: Bandwidths {
                ram: kept.bandwidth.ram,
                disk: rate,
                gpu: of_gpu.map_or(USUAL.gpu, |gpu| gpu.copy),
                pcie: of_gpu.map_or(USUAL.pcie, |gpu| gpu.to_gpu),
            },
            ram: measured(None),
            disk: origin,
            gpu: match of_gpu {
                Some(_) => measured(None),
                None => Origin::Assumed { reason: None },
            },
        }
    }
}

/// A small data centre GPU behind 16 lanes of PCIe 3, two channels of DDR4, and a solid-state drive.
pub(crate) const USUAL: Bandwidths = Bandwidths {
    gpu: 300e9,
    pcie: 12e9,
    ram: 20e9,
    disk: 1e9,
};
/// Days after which a measurement is said to be old.
const OLD: i64 = 60;

#[cfg(test)]
mod tests {
    use llm_tensor::Bytes;

    use super::super::{Bandwidth, MeasuredDisk, MeasuredGpu};
    use super::*;

    fn kept(rate: Option<f64>, volume: Option<Volume>) -> Kept {
        let bandwidth = Bandwidth {
            ram: 33e9,
            disk: MeasuredDisk {
                rate,
                folder: Some(PathBuf::from("/fast")),
                volume,
            },
            gpus: vec![MeasuredGpu {
                number: 1,
                name: "a card".to_owned(),
                copy: 3e12,
                to_gpu: 5e10,
                to_gpu_pageable: 1e10,
                from_gpu: 5e10,
                from_gpu_pageable: 1e10,
            }],
        };
        Kept::Here(Measurement::new(Machine::this(), bandwidth))
    }

    #[test]
    fn each_figure_says_how_it_is_known() {
        struct Case {
            kept: Kept,
            is_same_volume: bool,
            rates: [f64; 2],
            said: [&'static str; 2],
        }
        let folder = tempfile::tempdir().unwrap();
        let volume = Volume::of(folder.path());
        let here = "measured on this machine on DATE";
        let elsewhere = "assumed: what was measured on 2026-07-06 was another machine, other processors or another version";
        let cases = [
            Case {
                kept: Kept::Nothing,
                is_same_volume: true,
                rates: [20e9, 1e9],
                said: ["assumed", "assumed"],
            },
            Case {
                kept: Kept::Elsewhere("2026-07-06".to_owned()),
                is_same_volume: true,
                rates: [20e9, 1e9],
                said: [elsewhere, elsewhere],
            },
            Case {
                kept: kept(Some(3e9), volume),
                is_same_volume: true,
                rates: [33e9, 3e9],
                said: [here, "measured on this machine in /fast on DATE"],
            },
            Case {
                kept: kept(Some(3e9), volume),
                is_same_volume: false,
                rates: [33e9, 1e9],
                said: [
                    here,
                    "assumed: what was measured on DATE was another disk, that of /fast",
                ],
            },
            // Of which disk was not kept.
            Case {
                kept: kept(Some(3e9), None),
                is_same_volume: true,
                rates: [33e9, 1e9],
                said: [
                    here,
                    "assumed: what was measured on DATE was another disk, that of /fast",
                ],
            },
            Case {
                kept: kept(None, volume),
                is_same_volume: true,
                rates: [33e9, 1e9],
                said: [here, "assumed: no disk could be measured on DATE"],
            },
        ];
        for case in cases {
            let date = match &case.kept {
                Kept::Here(kept) => kept.date(),
                Kept::Elsewhere(_) | Kept::Nothing => String::new(),
            };
            let rates = Rates::of_kept(case.kept, None, &|_| case.is_same_volume);
            assert_eq!([rates.bandwidths.ram, rates.bandwidths.disk], case.rates);
            let said = [rates.ram.to_string(), rates.disk.to_string()];
            assert_eq!(said, case.said.map(|said| said.replace("DATE", &date)));
        }
    }

    #[test]
    fn a_gpus_figures_are_those_of_the_gpu_that_was_measured() {
        let gpu = |number, name: &str| Gpu {
            number,
            name: name.to_owned(),
            compute_capability: (8, 0),
            cuda_version: "12.4".to_owned(),
            total: Bytes::ZERO,
            free: Bytes::ZERO,
        };
        let of = |gpu: Option<Gpu>| {
            let rates = Rates::of_kept(kept(None, None), gpu.as_ref(), &|_| true);
            let Bandwidths { gpu, pcie, .. } = rates.bandwidths;
            (gpu, pcie, rates.gpu.is_measured())
        };
        let usual = (USUAL.gpu, USUAL.pcie, false);
        assert_eq!(of(Some(gpu(1, "a card"))), (3e12, 5e10, true));
        assert_eq!(of(Some(gpu(1, "another card"))), usual);
        assert_eq!(of(Some(gpu(0, "a card"))), usual);
        assert_eq!(of(None), usual, "of a machine that is not at hand");
    }

    #[test]
    fn what_is_old_is_said_to_be() {
        let origin = |days_ago| Origin::Measured {
            date: "2026-07-06".to_owned(),
            days_ago,
            folder: None,
        };
        let said = "measured on this machine on 2026-07-06";
        assert_eq!(origin(60).to_string(), said);
        assert_eq!(origin(61).to_string(), format!("{said}, 61 days ago"));
    }
}
