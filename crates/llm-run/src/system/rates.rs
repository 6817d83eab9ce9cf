//! Speeds of memories and devices, each with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use llm_plan::{GpuSpeed, LinkSpeed, Speeds};
use serde::Serialize;

use super::{Gpu, Kept, MeasuredGpu, Measurement, Volume};

/// Speeds, each with how it is known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rates {
    pub(crate) speeds: Speeds,
    pub(crate) ram: Origin,
    pub(crate) disk: Origin,
    /// By number: of a GPU's memory, of the way to it, of its launches and of handing rows over.
    gpus: BTreeMap<u32, Origin>,
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
    /// Rates of this machine, whose GPUs are `gpus`. `files` are those, or the folders of those, that would be read from
    /// disk: what was measured of another disk does not count.
    pub(crate) fn of(files: &[PathBuf], gpus: &[Gpu]) -> Self {
        Self::of_kept(Measurement::kept(), gpus, &|measured| {
            let is_same = |file: &PathBuf| {
                let volume = Volume::of(file);
                volume.is_some_and(|volume| volume.is_same(measured))
            };
            files.iter().all(is_same)
        })
    }

    /// Origin of a GPU's speeds.
    pub(crate) fn gpu(&self, number: u32) -> &Origin {
        self.gpus.get(&number).unwrap_or(&ASSUMED)
    }

    fn of_kept(kept: Kept, gpus: &[Gpu], is_volume: &dyn Fn(Volume) -> bool) -> Self {
        let assumed = |reason: Option<String>| Rates {
            speeds: USUAL,
            ram: Origin::Assumed {
                reason: reason.clone(),
            },
            disk: Origin::Assumed { reason },
            gpus: BTreeMap::new(),
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
        let of_gpus = gpus.iter().filter_map(|gpu| {
            let mut all = kept.bandwidth.gpus.iter();
            let measured = all.find(|measured| gpu.is_in(measured))?;
            Some((gpu.number, speed(measured)))
        });
        let of_gpus: BTreeMap<u32, GpuSpeed> = of_gpus.collect();
        let number = |uuid: &String| {
            let gpu = gpus.iter().find(|gpu| gpu.uuid == *uuid)?;
            of_gpus.contains_key(&gpu.number).then_some(gpu.number)
        };
        let links = kept.bandwidth.gpu_links.iter().filter_map(|link| {
            let [from, to] = [number(&link.uuids[0])?, number(&link.uuids[1])?];
            let speed = LinkSpeed {
                rate: link.rate,
                hand_over: link.hand_over,
            };
            Some(((from, to), speed))
        });
        let links = links.collect();
        Rates {
            ram: measured(None),
            disk: origin,
            gpus: of_gpus.keys().map(|&n| (n, measured(None))).collect(),
            speeds: Speeds {
                ram: kept.bandwidth.ram,
                cpu_products: kept.bandwidth.cpu_products,
                disk: rate,
                gpus: of_gpus,
                links,
                ..USUAL
            },
        }
    }
}

fn speed(measured: &MeasuredGpu) -> GpuSpeed {
    GpuSpeed {
        memory: measured.copy,
        pcie: measured.to_gpu.min(measured.from_gpu),
        products: measured.copy * PRODUCTS_PER_BYTE,
        launch: measured.launch_in_graph,
        hand_over: measured.hand_over,
    }
}

/// A small data centre GPU behind 16 lanes of PCIe 3, two channels of DDR4 and eight processors, and a solid-state drive.
pub(crate) const USUAL: Speeds = Speeds {
    gpu: GpuSpeed {
        memory: 300e9,
        pcie: 12e9,
        products: 300e9 * PRODUCTS_PER_BYTE,
        launch: 2e-6,
        hand_over: 30e-6,
    },
    gpus: BTreeMap::new(),
    links: BTreeMap::new(),
    ram: 20e9,
    cpu_products: 2e11,
    disk: 1e9,
};
/// Multiplications of many rows while a byte of memory is copied: of large products an H100 makes 49e12 a second, and copies
/// 3e12 bytes.
const PRODUCTS_PER_BYTE: f64 = 16.0;
const ASSUMED: Origin = Origin::Assumed { reason: None };
/// Days after which a measurement is said to be old.
const OLD: i64 = 60;

#[cfg(test)]
mod tests {
    use llm_tensor::Bytes;

    use super::super::{Bandwidth, MeasuredDisk, MeasuredGpu, MeasuredLink};
    use super::*;
    use crate::system::Machine;

    /// Between GPUs of these numbers of their own.
    fn link((from, to): (&str, &str)) -> MeasuredLink {
        MeasuredLink {
            from: 7,
            to: 8,
            uuids: [from, to].map(str::to_owned),
            rate: 2e11,
            hand_over: 1e-5,
            is_straight: true,
        }
    }

    fn kept(rate: Option<f64>, volume: Option<Volume>) -> Kept {
        let bandwidth = Bandwidth {
            ram: 33e9,
            cpu_products: 4e11,
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
                from_gpu: 4e10,
                from_gpu_pageable: 1e10,
                uuid: "e0".to_owned(),
                cuda_version: "12.4".to_owned(),
                launch: 4e-6,
                launch_in_graph: 1e-6,
                hand_over: 2e-5,
                context_bytes: None,
                cublas_bytes: None,
            }],
            gpu_links: [("e0", "e0"), ("e0", "gone")].map(link).to_vec(),
        };
        Kept::Here(Box::new(Measurement::new(Machine::this(), bandwidth)))
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
            let rates = Rates::of_kept(case.kept, &[], &|_| case.is_same_volume);
            assert_eq!([rates.speeds.ram, rates.speeds.disk], case.rates);
            let said = [rates.ram.to_string(), rates.disk.to_string()];
            assert_eq!(said, case.said.map(|said| said.replace("DATE", &date)));
        }
    }

    #[test]
    fn a_gpus_figures_are_those_of_the_gpu_that_was_measured() {
        let gpu = |number, name: &str, uuid: &str, version: &str| Gpu {
            number,
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            compute_capability: (8, 0),
            cuda_version: version.to_owned(),
            total: Bytes::ZERO,
            free: Bytes::ZERO,
            measured: None,
        };
        let of = |gpu: Gpu| {
            let number = gpu.number;
            let rates = Rates::of_kept(kept(None, None), &[gpu], &|_| true);
            (
                *rates.speeds.of_gpu(number),
                rates.gpu(number).is_measured(),
            )
        };
        let measured = GpuSpeed {
            memory: 3e12,
            // The narrower of both ways.
            pcie: 4e10,
            products: 48e12,
            launch: 1e-6,
            hand_over: 2e-5,
        };
        assert_eq!(of(gpu(1, "a card", "e0", "12.4")), (measured, true));
        // The driver may number it otherwise after a restart.
        assert_eq!(of(gpu(0, "a card", "e0", "12.4")), (measured, true));
        for other in [
            gpu(1, "another card", "e0", "12.4"),
            gpu(1, "a card", "e1", "12.4"),
            gpu(1, "a card", "e0", "13.0"),
        ] {
            assert_eq!(of(other), (USUAL.gpu, false));
        }
        let rates = Rates::of_kept(kept(None, None), &[], &|_| true);
        let unknown = (*rates.speeds.of_gpu(7), rates.gpu(7).is_measured());
        assert_eq!(
            unknown,
            (USUAL.gpu, false),
            "of a machine that is not at hand"
        );
        assert_eq!(rates.speeds.cpu_products, 4e11);
        assert!(rates.speeds.links.is_empty());
        // Of two links that were measured one is to a GPU that is gone.
        let rates = Rates::of_kept(kept(None, None), &[gpu(3, "a card", "e0", "12.4")], &|_| {
            true
        });
        let link = LinkSpeed {
            rate: 2e11,
            hand_over: 1e-5,
        };
        assert_eq!(rates.speeds.links, BTreeMap::from([((3, 3), link)]));
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
