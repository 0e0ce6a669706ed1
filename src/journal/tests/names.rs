use super::*;

#[tokio::test]
async fn ids_and_cycles_are_found_by_a_beginning_with_or_without_their_letter() {
    let house = house();
    let store = open(&house.home).unwrap();
    append(&store, one_of_each()).await;
    let reader = Reader::open(&house.home).unwrap();
    let ids = |kinds: &[Kind], wanted: &str| reader.ids(kinds, wanted).unwrap();
    assert_eq!(ids(&[Kind::Deployment], "d-"), ["d-1"]);
    assert_eq!(ids(&[Kind::Verdict], "d-"), ["d-1", "d-2", "d-3"]);
    assert_eq!(ids(&[Kind::Deployment], "1"), ["d-1"]);
    assert_eq!(ids(&[Kind::Experiment, Kind::Promotion], "1"), ["p-1", "x-1"]);
    assert_eq!(ids(&[Kind::Deployment], ""), Vec::<String>::new());
    assert_eq!(ids(&[Kind::Deployment], "%"), Vec::<String>::new());
    assert_eq!(reader.cycles("c-").unwrap(), ["c-1"]);
    assert_eq!(reader.cycles("1").unwrap(), ["c-1"]);
}
