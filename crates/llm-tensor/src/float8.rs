//! Tables of 8-bit floating-point numbers: 256 values by their codes, all of which f32 has.
//!
//! *Source*: "FP8 Formats for Deep Learning" for E4M3 and E5M2, "8-bit Numerical Formats for Deep Neural Networks" for
//! FNUZ, the OCP Microscaling Formats specification for E8M0.

/// No infinities, and one NaN for each sign.
pub(crate) static E4M3: [f32; 256] = table(Format {
    mantissa_bits: 3,
    bias: 7,
    special: Special::LastIsNan,
});

/// As IEEE 754 would have it.
pub(crate) static E5M2: [f32; 256] = table(Format {
    mantissa_bits: 2,
    bias: 15,
    special: Special::Ieee,
});

/// One NaN, in the place of -0; no infinities.
pub(crate) static E4M3FNUZ: [f32; 256] = table(Format {
    mantissa_bits: 3,
    bias: 8,
    special: Special::MinusZeroIsNan,
});

/// One NaN, in the place of -0; no infinities.
pub(crate) static E5M2FNUZ: [f32; 256] = table(Format {
    mantissa_bits: 2,
    bias: 16,
    special: Special::MinusZeroIsNan,
});

/// Powers of two without a sign, the last code being NaN.
pub(crate) static E8M0: [f32; 256] = {
    let mut values = [f32::NAN; 256];
    let mut code = 0;
    while code < 255 {
        values[code] = power_of_two(code as i32 - 127);
        code += 1;
    }
    values
};

struct Format {
    mantissa_bits: u32,
    bias: i32,
    special: Special,
}

/// Codes that are no finite numbers.
enum Special {
    /// Codes of the largest exponent.
    Ieee,
    /// Code of the largest exponent and mantissa.
    LastIsNan,
    /// Code that would be -0.
    MinusZeroIsNan,
}

const fn table(format: Format) -> [f32; 256] {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = value(&format, code as u32);
        code += 1;
    }
    values
}

const fn value(format: &Format, code: u32) -> f32 {
    let magnitude = code & 0x7F;
    let (exponent, mantissa) = (
        magnitude >> format.mantissa_bits,
        magnitude & ((1 << format.mantissa_bits) - 1),
    );
    let largest_exponent = 0x7F >> format.mantissa_bits;
    let is_negative = code >= 0x80;
    let is_nan = match format.special {
        Special::Ieee => exponent == largest_exponent && mantissa != 0,
        Special::LastIsNan => magnitude == 0x7F,
        Special::MinusZeroIsNan => code == 0x80,
    };
    if is_nan {
        return f32::NAN;
    }
    let is_infinite = matches!(format.special, Special::Ieee) && exponent == largest_exponent;
    let size = if is_infinite {
        f32::INFINITY
    } else {
        // Subnormals have the exponent of the smallest normal numbers, and no implicit one.
        let (implicit, exponent) = match exponent {
            0 => (0, 1),
            _ => (1 << format.mantissa_bits, exponent as i32),
        };
        let step = power_of_two(exponent - format.bias - format.mantissa_bits as i32);
        (implicit + mantissa) as f32 * step
    };
    if is_negative { -size } else { size }
}

/// 2 to the `exponent`, which is at least that of the smallest subnormal f32 with one bit to spare.
const fn power_of_two(exponent: i32) -> f32 {
    if exponent < -126 {
        f32::from_bits(1 << (exponent + 149))
    } else {
        f32::from_bits(((exponent + 127) as u32) << 23)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_papers_say() {
        for (values, code, expected) in [
            (&E4M3, 0x00, 0.0),
            (&E4M3, 0x01, 2f32.powi(-9)),
            (&E4M3, 0x08, 2f32.powi(-6)),
            (&E4M3, 0x38, 1.0),
            (&E4M3, 0x7E, 448.0),
            (&E4M3, 0xFE, -448.0),
            (&E5M2, 0x01, 2f32.powi(-16)),
            (&E5M2, 0x3C, 1.0),
            (&E5M2, 0x7B, 57344.0),
            (&E5M2, 0x7C, f32::INFINITY),
            (&E5M2, 0xFC, f32::NEG_INFINITY),
            (&E4M3FNUZ, 0x01, 2f32.powi(-10)),
            (&E4M3FNUZ, 0x40, 1.0),
            (&E4M3FNUZ, 0x7F, 240.0),
            (&E5M2FNUZ, 0x01, 2f32.powi(-17)),
            (&E5M2FNUZ, 0x7F, 57344.0),
            (&E8M0, 0, 2f32.powi(-127)),
            (&E8M0, 127, 1.0),
            (&E8M0, 254, 2f32.powi(127)),
        ] {
            assert_eq!(values[code], expected, "{code:#x}");
        }
        for (values, nans) in [
            (&E4M3, &[0x7F, 0xFF][..]),
            (&E5M2, &[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]),
            (&E4M3FNUZ, &[0x80]),
            (&E5M2FNUZ, &[0x80]),
            (&E8M0, &[0xFF]),
        ] {
            let found: Vec<usize> = (0..256).filter(|&code| values[code].is_nan()).collect();
            assert_eq!(found, nans);
        }
        assert!(E4M3[0x80] == 0.0 && E4M3[0x80].is_sign_negative());
    }
}
