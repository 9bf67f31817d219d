//! The cubins that are built in, and the choice for a GPU.
//!
//! Never trusts a cubin from elsewhere: they are part of the program.

use std::io::Read as _;

use flate2::read::GzDecoder;

use super::error::DeviceError;

/// One architecture's image of `kernels/cu/all.cu`.
pub(crate) struct Cubin {
    /// Compute capability it was built for.
    pub(crate) architecture: (u32, u32),
    /// CUDA release of its compiler: drivers of an older major release can't load it.
    pub(crate) cuda: (u32, u32),
    /// The ELF image, gzipped: a tenth of its size.
    pub(crate) image: &'static [u8],
}

/// In the order of the architectures.
pub(crate) const CUBINS: &[Cubin] = include!("../../cubins/table.rs");

/// The image for a GPU: code for X.y runs on X.z with z ≥ y (CUDA programming guide, "Binary Compatibility"), and the
/// nearest is best.
pub(crate) fn choose(cubins: &[Cubin], compute_capability: (u32, u32)) -> Result<&Cubin, DeviceError> {
    let (major, minor) = compute_capability;
    let fits = |cubin: &&Cubin| cubin.architecture.0 == major && cubin.architecture.1 <= minor;
    match cubins.iter().filter(fits).max_by_key(|cubin| cubin.architecture.1) {
        Some(cubin) => Ok(cubin),
        None => Err(DeviceError::NoKernels { compute_capability, built: names(cubins) }),
    }
}

impl Cubin {
    /// Whether a driver (1000 × major + 10 × minor of its CUDA release) can load it: "minor version compatibility" holds from
    /// CUDA 11 on, within a major release and for older ones (CUDA compatibility guide).
    pub(crate) fn check(&self, driver: u32, compute_capability: (u32, u32)) -> Result<(), DeviceError> {
        if driver / 1000 >= self.cuda.0 {
            return Ok(());
        }
        let driver = (driver / 1000, driver % 1000 / 10);
        Err(DeviceError::OldDriverForKernels { driver, built_by: self.cuda, compute_capability })
    }
}

/// The ELF image of what [`choose`] gives, at an address that the driver can read words from.
pub(crate) fn unpack(packed: &[u8]) -> Vec<u8> {
    let mut image = Vec::new();
    // Not from elsewhere: `cargo xtask cubins` made it, and a test unpacks every one.
    GzDecoder::new(packed).read_to_end(&mut image).expect("a cubin that is built in is a whole gzip file");
    image
}

fn names(cubins: &[Cubin]) -> String {
    if cubins.is_empty() {
        return "none".into();
    }
    let names: Vec<_> = cubins.iter().map(|c| format!("{}.{}", c.architecture.0, c.architecture.1)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cubin_unpacks_to_an_elf_file() {
        assert!(!CUBINS.is_empty());
        for cubin in CUBINS {
            assert!(unpack(cubin.image).starts_with(b"\x7fELF"), "{:?}", cubin.architecture);
        }
    }

    #[test]
    fn the_nearest_older_minor_of_the_same_major_is_chosen() {
        let built = [(7, 0), (7, 5), (8, 0), (8, 6)].map(|architecture| Cubin {
            architecture,
            cuda: (11, 8),
            image: match architecture {
                (7, 0) => b"70",
                (7, 5) => b"75",
                (8, 0) => b"80",
                _ => b"86",
            },
        });
        let cases = [
            ((7, 0), Some("70")),
            ((7, 2), Some("70")),
            ((7, 5), Some("75")),
            ((8, 0), Some("80")),
            ((8, 9), Some("86")),
            ((6, 1), None),
            ((9, 0), None),
        ];
        for (capability, expected) in cases {
            match (choose(&built, capability), expected) {
                (Ok(cubin), Some(expected)) => assert_eq!(cubin.image, expected.as_bytes(), "{capability:?}"),
                (Err(error), None) => {
                    let text = error.to_string();
                    assert!(text.contains(&format!("{}.{}", capability.0, capability.1)), "{text}");
                    assert!(text.contains("7.0, 7.5, 8.0, 8.6"), "{text}");
                }
                (found, _) => panic!("{capability:?}: {:?}", found.map(|cubin| cubin.image)),
            }
        }
    }

    #[test]
    fn drivers_of_an_older_cuda_are_told_so() {
        let built_by = |cuda| Cubin { architecture: (8, 7), cuda, image: b"" };
        for (cuda, driver, loads) in [
            ((11, 8), 11_040, true),
            ((11, 8), 13_000, true),
            ((12, 9), 12_000, true),
            ((12, 9), 11_080, false),
            ((13, 0), 12_090, false),
        ] {
            let checked = built_by(cuda).check(driver, (8, 7));
            assert_eq!(checked.is_ok(), loads, "{cuda:?} on {driver}");
            if let Err(error) = checked {
                let needs = format!("update NVIDIA's driver to one for CUDA {}.0", cuda.0);
                assert!(error.to_string().contains(&needs), "{error}");
            }
        }
        // JetPack 5 on Xavier and Orin, and the cards of that time.
        for architecture in [(5, 2), (7, 0), (7, 2), (7, 5), (8, 0), (8, 6), (8, 7)] {
            choose(CUBINS, architecture).unwrap().check(11_040, architecture).unwrap();
        }
    }
}
