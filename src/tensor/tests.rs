use super::*;

const PLACE: Place = Place {
    device: DeviceId(DeviceKey::Emulator(7)),
    stream: None,
};

fn region(len: u64) -> Region<'static> {
    Region::vouched(0x1000, len, DType::BF16, PLACE)
}

#[test]
fn a_tensor_lies_inside_its_region_or_is_refused() {
    let tensor = region(24).tensor([2, 3, 4]).unwrap();
    assert_eq!((tensor.address(), tensor.strides()), (0x1000, [12, 4, 1]));
    assert_eq!(
        region(23).tensor([2, 3, 4]).unwrap_err(),
        TensorError::OutOfBounds {
            first: 0,
            last: 23,
            len: 23
        }
    );
    assert_eq!(
        region(24).strided(3, [2, 2], [-4, 1]).unwrap_err(),
        TensorError::OutOfBounds {
            first: -1,
            last: 4,
            len: 24
        }
    );
    let reversed = region(24).strided(20, [6, 4], [-4, 1]).unwrap();
    assert_eq!(reversed.address(), 0x1000 + 40);
    assert_eq!(reversed.span(), Some(0x1000..0x1000 + 48));
}

#[test]
fn the_ends_of_the_address_space_are_refused_not_wrapped() {
    let far = Region::vouched(u64::MAX - 1, 1 << 40, DType::BF16, PLACE);
    assert!(matches!(
        far.strided(4, [1], [1]),
        Err(TensorError::Overflow { .. })
    ));
    assert!(matches!(
        region(8).tensor([usize::MAX, 2]),
        Err(TensorError::Overflow { .. })
    ));
    let odd = Region::vouched(0x1001, 8, DType::BF16, PLACE);
    assert_eq!(
        odd.tensor([8]).unwrap_err(),
        TensorError::Misaligned {
            address: 0x1001,
            needed: 2
        }
    );
}

#[test]
fn empty_tensors_may_start_at_the_end_but_not_behind_it() {
    assert!(region(24).strided(24, [0, 5], [5, 1]).is_ok());
    assert!(region(24).strided(25, [0, 5], [5, 1]).is_err());
    assert!(region(0).tensor([0, 3]).unwrap().is_empty());
}

#[test]
fn views_keep_to_their_tensor() {
    let tensor = region(24).tensor([4, 6]).unwrap();
    let rows = tensor.narrow(0, 1..3).unwrap();
    assert_eq!((rows.shape(), rows.address()), ([2, 6], 0x1000 + 12));
    let columns = rows.narrow(1, 2..6).unwrap();
    assert_eq!((columns.shape(), columns.address()), ([2, 4], 0x1000 + 16));
    assert_eq!(tensor.narrow(0, 4..4).unwrap().shape(), [0, 6]);
    assert_eq!(
        tensor.narrow(0, 3..5).unwrap_err(),
        TensorError::Range {
            axis: 0,
            size: 4,
            start: 3,
            end: 5
        }
    );
    assert!(tensor.narrow(2, 0..0).is_err());
    let turned = tensor.permute([1, 0]).unwrap();
    assert_eq!((turned.shape(), turned.strides()), ([6, 4], [1, 6]));
    assert!(tensor.permute([0, 0]).is_err());
    assert!(tensor.permute([0, 2]).is_err());
}

#[test]
fn one_index_of_an_axis_is_a_tensor_of_the_others() {
    let tensor = region(24).tensor([2, 3, 4]).unwrap();
    let middle = tensor.select::<2>(1, 2).unwrap();
    assert_eq!((middle.shape(), middle.strides()), ([2, 4], [12, 1]));
    assert_eq!(middle.address(), 0x1000 + 2 * 8);
    assert!(tensor.select::<2>(1, 3).is_err());
    assert!(tensor.select::<2>(3, 0).is_err());
    assert!(tensor.select::<2>(0, usize::MAX).is_err());
    let wide = middle.widened::<5>();
    assert_eq!(
        (wide.shape(), wide.strides()),
        ([1, 1, 1, 2, 4], [0, 0, 0, 12, 1])
    );
    assert_eq!(wide.span(), middle.span());
}

#[test]
fn written_tensors_must_not_meet_themselves() {
    let region = || RegionMut::vouched(0x1000, 24, DType::BF16, PLACE);
    assert!(region().strided(0, [4, 6], [6, 1]).is_ok());
    assert!(matches!(
        region().strided(0, [4, 6], [0, 1]),
        Err(TensorError::SelfOverlap { .. })
    ));
}

#[test]
fn overlap_knows_columns_of_one_matrix() {
    let fused = region(4 * 12);
    let cut = |offset, width| fused.strided(offset, [4, width], [12, 1]).unwrap();
    assert!(!cut(0, 4).may_overlap(&cut(4, 8)));
    assert!(!cut(4, 8).may_overlap(&cut(0, 4)));
    assert!(cut(0, 5).may_overlap(&cut(4, 8)));
    assert!(cut(4, 4).may_overlap(&cut(4, 4)));
    let tail = fused.strided(24, [24], [1]).unwrap();
    assert!(tail.may_overlap(&cut(0, 4)));
    assert!(!tail.may_overlap(&fused.strided(0, [24], [1]).unwrap()));
}
