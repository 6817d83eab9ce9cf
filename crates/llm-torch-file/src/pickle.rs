//! The pickles of a file, without the memo: what Python would repeat by number is written out.

use llm_checkpoint::NewTensor;
use llm_tensor::DType;

use super::{TorchLayout, is_untyped};

/// A dictionary of tensors whose storages are called `0`, `1` and so on.
pub(super) fn state_dict(tensors: &[NewTensor], layout: TorchLayout) -> Vec<u8> {
    let mut pickle = b"\x80\x02}".to_vec();
    for (idx, tensor) in tensors.iter().enumerate() {
        text(&mut pickle, &tensor.name);
        add_tensor(&mut pickle, idx, tensor, layout);
        pickle.push(b's');
    }
    pickle.push(b'.');
    pickle
}

/// The list of the storages.
pub(super) fn keys(n: usize) -> Vec<u8> {
    let mut pickle = b"\x80\x02]".to_vec();
    for idx in 0..n {
        text(&mut pickle, &idx.to_string());
        pickle.push(b'a');
    }
    pickle.push(b'.');
    pickle
}

/// The magic number, the version, and the sizes of C's types, as the older format begins.
pub(super) fn legacy_front() -> Vec<u8> {
    let mut front =
        b"\x80\x02\x8A\x0A\x6C\xFC\x9C\x46\xF9\x20\x6A\xA8\x50\x19.\x80\x02M\xE9\x03.".to_vec();
    front.extend(b"\x80\x02}");
    text(&mut front, "protocol_version");
    front.extend(b"M\xE9\x03s");
    text(&mut front, "little_endian");
    front.extend(b"\x88s");
    text(&mut front, "type_sizes");
    front.push(b'}');
    for (name, size) in [("short", 2), ("int", 4), ("long", 4)] {
        text(&mut front, name);
        front.extend([b'K', size, b's']);
    }
    front.extend(b"s.");
    front
}

fn add_tensor(pickle: &mut Vec<u8>, idx: usize, tensor: &NewTensor, layout: TorchLayout) {
    let is_untyped = is_untyped(tensor.dtype);
    let (class, function, n_elements) = if is_untyped {
        let n_bytes = tensor.shape.n_elements() * tensor.dtype.size() as u64;
        (
            "torch.storage\nUntypedStorage",
            "_rebuild_tensor_v3",
            n_bytes,
        )
    } else {
        let n_elements = tensor.shape.n_elements();
        (
            storage_class(tensor.dtype),
            "_rebuild_tensor_v2",
            n_elements,
        )
    };
    pickle.extend(format!("ctorch._utils\n{function}\n((").bytes());
    text(pickle, "storage");
    pickle.extend(format!("c{class}\n").bytes());
    text(pickle, &idx.to_string());
    text(pickle, "cpu");
    int(pickle, n_elements);
    pickle.extend(match layout {
        TorchLayout::Zip => &b"tQ"[..],
        TorchLayout::Legacy => b"NtQ",
    });
    int(pickle, 0);
    let mut strides = vec![1; tensor.shape.len()];
    for axis in (1..strides.len()).rev() {
        strides[axis - 1] = strides[axis] * tensor.shape[axis].max(1);
    }
    for numbers in [&tensor.shape[..], &strides] {
        pickle.push(b'(');
        for n in numbers {
            int(pickle, *n);
        }
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)R");
    if is_untyped {
        pickle.extend(format!("ctorch\n{}\n", tensor.dtype.torch_name()).bytes());
    }
    pickle.extend(b"tR");
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.bytes());
}

fn int(pickle: &mut Vec<u8>, n: u64) {
    match u8::try_from(n) {
        Ok(n) => pickle.extend([b'K', n]),
        Err(_) => {
            // One byte more, for the sign.
            pickle.extend([0x8A, 9]);
            pickle.extend(n.to_le_bytes());
            pickle.push(0);
        }
    }
}

fn storage_class(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "torch\nDoubleStorage",
        DType::F32 => "torch\nFloatStorage",
        DType::F16 => "torch\nHalfStorage",
        DType::BF16 => "torch\nBFloat16Storage",
        DType::I64 => "torch\nLongStorage",
        DType::I32 => "torch\nIntStorage",
        DType::I16 => "torch\nShortStorage",
        DType::I8 => "torch\nCharStorage",
        DType::U8 => "torch\nByteStorage",
        DType::Bool => "torch\nBoolStorage",
        DType::C64 => "torch\nComplexFloatStorage",
        DType::F8E4M3 | DType::F8E5M2 | DType::F8E4M3FNUZ | DType::F8E5M2FNUZ | DType::F8E8M0 => {
            "torch.storage\nUntypedStorage"
        }
        DType::U64 | DType::U32 | DType::U16 => "torch.storage\nUntypedStorage",
    }
}
