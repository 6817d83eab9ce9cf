use super::*;

/// The definition that the table is held against: a binary search among the midpoints.
fn searched(midpoints: &[f32], x: f32) -> u8 {
    midpoints.partition_point(|&midpoint| midpoint < x) as u8
}

fn midpoints() -> Vec<f32> {
    let pairs = dynamic_map().windows(2);
    pairs.map(|pair| (pair[0] + pair[1]) * 0.5).collect()
}

#[test]
fn the_map_is_sorted_and_reaches_from_minus_to_plus_one() {
    let map = dynamic_map();
    assert!(map.is_sorted_by(|a, b| a < b));
    assert_eq!((map[0], map[127], map[255]), (-0.99296874, 0.0, 1.0));
}

/// A checksum over the bits of bitsandbytes' own map.
#[test]
fn the_map_is_the_reference_s_to_the_bit() {
    let bits = dynamic_map().iter().map(|x| x.to_bits());
    assert_eq!(
        bits.fold(0u32, |sum, x| sum.rotate_left(5) ^ x),
        0x1154_36df
    );
}

#[test]
fn every_value_has_its_own_code_and_a_tie_the_lower_one() {
    let map = dynamic_map();
    for (code, &value) in map.iter().enumerate() {
        assert_eq!(usize::from(nearest::code(value)), code, "{value}");
    }
    for (code, midpoint) in midpoints().into_iter().enumerate() {
        assert_eq!(usize::from(nearest::code(midpoint)), code, "{midpoint}");
        let above = usize::from(nearest::code(midpoint.next_up()));
        assert_eq!(above, code + 1, "{midpoint}");
    }
}

#[test]
fn the_table_finds_what_a_search_finds() {
    let midpoints = midpoints();
    let near = midpoints
        .iter()
        .flat_map(|x| x.to_bits() - 3000..=x.to_bits() + 3000);
    // A prime step, so that all beginnings and all ends come together.
    let all = (0..=u32::MAX).step_by(1021);
    let in_range = (-(1 << 21)..=1 << 21).map(|i: i32| (i as f32 / (1 << 21) as f32).to_bits());
    let boundaries = (0..1 << 15).flat_map(|key| [key << 17, key << 17 | 0x1ffff]);
    for bits in near.chain(all).chain(in_range).chain(boundaries) {
        let x = f32::from_bits(bits);
        if !x.is_nan() {
            assert_eq!(nearest::code(x), searched(&midpoints, x), "{x:e}");
        }
    }
}

#[test]
fn scales_come_back_within_half_a_step() {
    let scales: Vec<f32> = (0..1000).map(|i| 2.0 + (i as f32 * 0.7).sin()).collect();
    let offset = offset(&scales);
    let (mut codes, mut absmax) = (vec![0; 1000], vec![0.0; 4]);
    encode(&scales, offset, &mut codes, &mut absmax);
    let absmax_bytes: Vec<u8> = absmax.iter().flat_map(|x| x.to_le_bytes()).collect();
    let map = Arc::new(*dynamic_map());
    let double = DoubleAbsmax::new(
        HostBytes::new(codes),
        HostBytes::new(absmax_bytes),
        map,
        offset,
    );
    let double = double.unwrap();
    for (i, &scale) in scales.iter().enumerate() {
        // The coarsest values lie 0.0140625 apart; the lowest one ends before -1.
        let tolerance = absmax[i / NESTED_BLOCK] * 0.0071;
        assert!((double.decode(i) - scale).abs() <= tolerance, "{i}");
    }
}

#[test]
fn equal_scales_are_kept_exactly() {
    let (mut codes, mut absmax) = ([0; 300], [1.0; 2]);
    encode(&[0.7; 300], 0.7, &mut codes, &mut absmax);
    assert_eq!((codes, absmax), ([127; 300], [0.0; 2]));
}

#[test]
fn what_is_not_finite_shows() {
    for bad in [f32::NAN, f32::INFINITY] {
        let mut absmax = [0.0];
        encode(&[1.0, bad, 2.0], 1.0, &mut [0; 3], &mut absmax);
        assert!(!absmax[0].is_finite(), "{bad}");
    }
}
