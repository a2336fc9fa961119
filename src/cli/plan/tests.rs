use super::*;

#[test]
fn a_new_nic_is_read_from_its_text() {
    let Addition(nic) = "blue=infra/net,sriov,mac=02-00-00-00-00-0A".parse().unwrap();
    assert_eq!((nic.name.as_str(), nic.network_name.as_str(), nic.is_sriov), ("blue", "infra/net", true));
    assert_eq!(nic.mac.unwrap().to_string(), "02:00:00:00:00:0a");
    for text in ["blue", "=net", "blue=", "blue=net,fast", "blue=net,mac=1", ""] {
        assert!(text.parse::<Addition>().is_err(), "{text:?}");
    }
}
