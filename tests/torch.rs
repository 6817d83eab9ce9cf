//! Tensors written as by PyTorch are read as they were meant.

use std::fs;

use llm_checkpoint::{Checkpoint, Encoding, Format, Layout, NewTensor};
use llm_tensor::{DType, Shape};
use llm_torch_file::{TorchFile, TorchLayout};
use proptest::prelude::*;

fn tensors() -> impl Strategy<Value = Vec<(DType, Vec<u64>)>> {
    let dtype = prop::sample::select(&DType::ALL[..]);
    let dims = prop::collection::vec(0u64..5, 0..5);
    prop::collection::vec((dtype, dims), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn state_dicts_survive_a_round_trip(tensors in tensors(), piece in 1usize..100) {
        let folder = tempfile::tempdir().unwrap();
        let tensors: Vec<NewTensor> = tensors
            .into_iter()
            .enumerate()
            .map(|(i, (dtype, dims))| NewTensor {
                name: format!("layers.{i}.weight"),
                dtype,
                shape: Shape::new(&dims).unwrap(),
            })
            .collect();
        let sizes = tensors.iter().map(|t| t.shape.bytes(t.dtype).unwrap().get() as usize);
        let ends: Vec<usize> = sizes.scan(0, |end, n| { *end += n; Some(*end) }).collect();
        let bytes: Vec<u8> = (0..ends.last().copied().unwrap()).map(|i| i as u8).collect();
        for layout in [TorchLayout::Zip, TorchLayout::Legacy] {
            let path = folder.path().join("pytorch_model.bin");
            let mut file = TorchFile::create(&path, layout, &tensors).unwrap();
            for piece in bytes.chunks(piece) {
                file.write(piece).unwrap();
            }
            file.finish().unwrap();

            let checkpoint = Checkpoint::open(folder.path()).unwrap();
            prop_assert_eq!(checkpoint.format(), Format::Torch);
            prop_assert_eq!(checkpoint.tensors().len(), tensors.len());
            for (i, (tensor, end)) in tensors.iter().zip(&ends).enumerate() {
                let info = checkpoint.get(&tensor.name).unwrap();
                prop_assert_eq!(&info.shape, &tensor.shape);
                prop_assert_eq!(info.encoding, Encoding::Plain(tensor.dtype));
                prop_assert_eq!(&info.layout, &Layout::RowMajor);
                let n_elements = tensor.shape.n_elements();
                let mut found = vec![0; n_elements as usize * tensor.dtype.size()];
                checkpoint.read_into(&tensor.name, 0..n_elements, tensor.dtype, &mut found).unwrap();
                prop_assert_eq!(&found, &bytes[end - found.len()..*end], "tensor {}", i);
                if layout == TorchLayout::Zip && n_elements > 0 {
                    prop_assert_eq!(info.bytes.start % 64, 0);
                    prop_assert!(checkpoint.view(&tensor.name).unwrap().is_some());
                }
            }
        }
    }
}

#[test]
fn unfinished_files_do_not_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    let tensor = NewTensor {
        name: "w".to_owned(),
        dtype: DType::F32,
        shape: Shape::new(&[4]).unwrap(),
    };
    for layout in [TorchLayout::Zip, TorchLayout::Legacy] {
        let mut file = TorchFile::create(&path, layout, std::slice::from_ref(&tensor)).unwrap();
        file.write(&[1; 15]).unwrap();
        drop(file);
        assert!(fs::metadata(&path).unwrap().len() > 15);
        let error = Checkpoint::open(&path).unwrap_err().to_string();
        assert!(error.contains("not downloaded completely"), "{error}");
    }
}
