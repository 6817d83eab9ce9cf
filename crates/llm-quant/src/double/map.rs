//! The 256 values of the scales' own codes.

/// Sorted: for each decimal exponent from 1e-6 to 1 twice as many steps as for the one below (Dettmers 2016, "8-Bit
/// Approximations for Parallelism in Deep Learning"), the middles between borders; rounded as the reference's library
/// rounds.
pub(super) static DYNAMIC_MAP: [f32; 256] = {
    let mut map = [0.0; 256];
    let powers = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let (mut exponent, mut at) = (0, 128);
    while exponent < powers.len() {
        let n = 1 << exponent;
        let mut i = 0;
        while i < n {
            map[at] = powers[exponent] * ((border(i, n) + border(i + 1, n)) / 2.0);
            map[254 - at] = -map[at];
            at += 1;
            i += 1;
        }
        exponent += 1;
    }
    map[255] = 1.0;
    map
};

/// Border `i` of `n` equal steps from 0.1 to 1, counted from the nearer end: `torch.linspace`.
const fn border(i: usize, n: usize) -> f32 {
    let step = ((1.0 - 0.1f32) / n as f32) as f64;
    match i < n.div_ceil(2) {
        true => (0.1f32 as f64 + step * i as f64) as f32,
        false => (1.0 - step * (n - i) as f64) as f32,
    }
}
