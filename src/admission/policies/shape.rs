//! NP001 to NP009: the shape of NICs, which depends on nothing but the request.

use super::{Check, Policy, Scope};

/// NP001.
pub(super) static DUPLICATE_NETWORK_NAME: Policy = Policy {
    rule: "NP001",
    scope: Scope::Shape,
    checks: &[Check {
        name: "duplicates",
        found: "variables.networkNames
  .filter(name, variables.networkNames.indexOf(name) != variables.networkNames.lastIndexOf(name))
  .map(name, 'network name ' + strings.quote(name) + ' is already in use')",
        fix: "choose a name that no other network uses, and give its interface the same name",
    }],
    limits: &[],
};

/// NP002.
pub(super) static DUPLICATE_INTERFACE_NAME: Policy = Policy {
    rule: "NP002",
    scope: Scope::Shape,
    checks: &[Check {
        name: "duplicates",
        found: "variables.interfaceNames
  .filter(name, variables.interfaceNames.indexOf(name) != variables.interfaceNames.lastIndexOf(name))
  .map(name, 'interface name ' + strings.quote(name) + ' is already in use')",
        fix: "choose a name that no other interface uses, and give its network the same name",
    }],
    limits: &[],
};

/// NP003.
pub(super) static INTERFACE_WITHOUT_NETWORK: Policy = Policy {
    rule: "NP003",
    scope: Scope::Shape,
    checks: &[Check {
        name: "single",
        found: "variables.interfaceNames
  .filter(name, !(name in variables.networkNames))
  .map(name, 'interface ' + strings.quote(name) + ' has no network with the same name')",
        fix: "add an entry with that name to networks, or remove the interface",
    }],
    limits: &[],
};

/// NP004.
pub(super) static NETWORK_WITHOUT_INTERFACE: Policy = Policy {
    rule: "NP004",
    scope: Scope::Shape,
    checks: &[Check {
        name: "single",
        found: "variables.networkNames
  .filter(name, !(name in variables.interfaceNames))
  .map(name, 'network ' + strings.quote(name) + ' has no interface with the same name')",
        fix: "add an interface with that name to domain.devices.interfaces, or remove the network",
    }],
    limits: &[],
};

/// NP005.
pub(super) static NETWORK_SOURCE: Policy = Policy {
    rule: "NP005",
    scope: Scope::Shape,
    checks: &[
        Check {
            name: "severalPods",
            found: "[variables.networks.filter(network, has(network.pod))
  .map(network, strings.quote(network.?name.orValue('')))]
  .filter(names, names.size() > 1)
  .map(names, string(names.size()) + ' networks are the pod network, but only one may be: ' + names.join(', '))",
            fix: "use multus for all but one of them, or remove them",
        },
        Check {
            name: "severalDefaults",
            found: "[variables.networks.filter(network, network.?multus.?default.orValue(false))
  .map(network, strings.quote(network.?name.orValue('')))]
  .filter(names, names.size() > 1)
  .map(names, string(names.size()) + ' networks have multus.default, but only one may: ' + names.join(', '))",
            fix: "remove multus.default from all but one of them",
        },
        Check {
            name: "podAndDefault",
            found: "[[
  variables.networks.filter(network, network.?multus.?default.orValue(false)),
  variables.networks.filter(network, has(network.pod))
]]
  .filter(lists, lists.all(list, list.size() > 0))
  .map(lists, lists.map(list, list[0].?name.orValue('')))
  .map(names, 'network ' + strings.quote(names[0]) + ' has multus.default, which replaces the pod network ' +
    strings.quote(names[1]))",
            fix: "remove one of both networks and its interface, or remove multus.default",
        },
        Check {
            name: "notOneSource",
            found: "variables.networks
  .map(network, {
    'name': dyn(network.?name.orValue('')),
    'sources': dyn(['pod', 'multus', 'resourceClaim'].filter(key, key in network))
  })
  .filter(network, network.sources.size() > 1 ||
    (network.sources.size() == 0 && !(network.name in variables.newerNetworks)))
  .map(network, 'network ' + strings.quote(network.name) + ' has ' + (network.sources.size() == 0 ? 'no source' :
    string(network.sources.size()) + ' sources: ' + network.sources.join(', ')))",
            fix: "set exactly one of pod, multus and resourceClaim",
        },
        Check {
            name: "emptyNames",
            found: "[variables.networks
  .filter(network, has(network.multus) && network.multus.?networkName.orValue('') == '')
  .map(network, strings.quote(network.?name.orValue('')))]
  .filter(names, names.size() > 0)
  .map(names, 'multus.networkName is empty in network' + (names.size() > 1 ? 's ' : ' ') + names.join(', '))",
            fix: "set it to a NetworkAttachmentDefinition: NAME or NAMESPACE/NAME",
        },
    ],
    limits: &[],
};

/// NP006.
pub(super) static INTERFACE_BINDING: Policy = Policy {
    rule: "NP006",
    scope: Scope::Shape,
    checks: &[
        Check {
            name: "unbound",
            found: "variables.interfaces
  .filter(interface,
    ['bridge', 'masquerade', 'sriov', 'passtBinding', 'binding'].all(key, !(key in interface)) &&
    !(interface.name in variables.newerInterfaces) &&
    (['slirp', 'macvtap', 'passt'].exists(key, key in interface) ||
      !(variables.hasPreference && interface.name in variables.podNetworks)))
  .map(interface, 'interface ' + strings.quote(interface.name) + ' has ' +
    (has(interface.slirp) ? 'only the discontinued binding slirp' :
      has(interface.macvtap) ? 'only the discontinued binding macvtap' :
      has(interface.passt) ? 'only the discontinued binding passt' : 'no binding'))",
            fix: "set exactly one of bridge, masquerade, sriov, passtBinding and binding",
        },
        Check {
            name: "severalBindings",
            found: "variables.interfaces
  .filter(interface,
    ['bridge', 'masquerade', 'sriov', 'passtBinding', 'binding'].filter(key, key in interface).size() > 1)
  .map(interface, 'interface ' + strings.quote(interface.name) + ' has ' +
    string(['bridge', 'masquerade', 'sriov', 'passtBinding', 'binding']
      .filter(key, key in interface).size()) + ' bindings: ' +
    ['bridge', 'masquerade', 'sriov', 'passtBinding', 'binding']
      .filter(key, key in interface)
      .map(key, key == 'binding' ? 'binding plugin ' + strings.quote(interface.binding.name) : key).join(', '))",
            fix: "set exactly one of bridge, masquerade, sriov, passtBinding and binding",
        },
        Check {
            name: "offPodNetwork",
            found: "variables.interfaces
  .filter(interface, (has(interface.masquerade) || has(interface.passtBinding)) &&
    !(interface.name in variables.podNetworks) && !(interface.name in variables.newerNetworks))
  .map(interface, 'interface ' + strings.quote(interface.name) + ' has ' +
    (has(interface.masquerade) ? 'masquerade' : 'passtBinding') + ', which works on the pod network only')",
            fix: "use bridge instead, or attach the NIC to the pod network",
        },
        Check {
            name: "reservedAddresses",
            found: "variables.interfaces
  .filter(interface, has(interface.masquerade) && interface.?macAddress.orValue('') == '02:00:00:00:00:00')
  .map(interface, 'interface ' + strings.quote(interface.name) +
    ' has MAC address \"02:00:00:00:00:00\", which KubeVirt\\'s own bridge uses')",
            fix: "choose another address",
        },
        Check {
            name: "discontinued",
            found: "(request.operation == 'CREATE' ? variables.interfaces : [])
  .filter(interface, has(interface.slirp) || has(interface.macvtap) || has(interface.passt))
  .map(interface, 'interface ' + strings.quote(interface.name) + ' has ' +
    (has(interface.slirp) ? 'slirp' : has(interface.macvtap) ? 'macvtap' : 'passt') +
    ', discontinued since KubeVirt 1.3')",
            fix: "use passtBinding, masquerade, or binding with a plugin that is registered in the KubeVirt resource",
        },
    ],
    limits: &[
        "Whether the cluster permits bridge on the pod network, and passtBinding, is not checked: it is in the \
         KubeVirt resource.",
        "An interface without a binding on the pod network is allowed if the VM has a preference, which may set one.",
    ],
};

/// NP007.
pub(super) static INTERFACE_STATE: Policy = Policy {
    rule: "NP007",
    scope: Scope::Shape,
    checks: &[
        Check {
            name: "unknownStates",
            found: "variables.interfaces
  .filter(interface, !(interface.?state.orValue('') in ['', 'absent', 'down', 'up']))
  .map(interface, 'interface ' + strings.quote(interface.name) + ' has the invalid state ' +
    strings.quote(interface.state))",
            fix: "state may be absent, down or up; leave it out for a link that is up",
        },
        Check {
            name: "linksOfSriov",
            found: "variables.interfaces
  .filter(interface, has(interface.sriov) && interface.?state.orValue('') in ['down', 'up'])
  .map(interface, 'SR-IOV interface ' + strings.quote(interface.name) + ' has state ' + strings.quote(interface.state) +
    ', but its link cannot be set')",
            fix: "leave state out and set the link inside the guest",
        },
        Check {
            name: "absentDefaults",
            found: "variables.interfaces
  .filter(interface, interface.?state.orValue('') == 'absent' &&
    variables.defaultNetworks.size() > 0 && variables.defaultNetworks[0] == interface.name)
  .map(interface, 'interface ' + strings.quote(interface.name) +
    ' cannot be unplugged: it is on the pod\\'s default network')",
            fix: "write the state as \"down\" to turn off only the link",
        },
        Check {
            name: "absentWithoutBridge",
            found: "variables.interfaces
  .filter(interface, interface.?state.orValue('') == 'absent' && !has(interface.bridge) &&
    !(variables.defaultNetworks.size() > 0 && variables.defaultNetworks[0] == interface.name) &&
    !(interface.name in variables.newerInterfaces &&
      ['masquerade', 'sriov', 'passtBinding', 'binding', 'slirp', 'macvtap', 'passt']
        .all(key, !(key in interface))))
  .map(interface, 'interface ' + strings.quote(interface.name) +
    ' cannot be unplugged: state absent needs the bridge binding')",
            fix: "to remove the NIC, delete its interface and network, and restart the VM if it runs",
        },
    ],
    limits: &[],
};

/// NP008.
pub(super) static INTERFACE_FIELDS: Policy = Policy {
    rule: "NP008",
    scope: Scope::Shape,
    checks: &[
        Check {
            name: "invalidNames",
            found: "variables.interfaceNames
  .filter(name, !name.matches('^[a-zA-Z0-9_-]+$'))
  .map(name, name == '' ? 'the interface has no name' :
    'interface name ' + strings.quote(name) + ' contains the invalid character \\'' +
    name.find('[^a-zA-Z0-9_-]') + '\\'')",
            fix: "use only letters, digits, - and _ in the name of the interface and its network",
        },
        Check {
            name: "unknownModels",
            found: "variables.interfaces
  .filter(interface, !(interface.?model.orValue('') in
    ['', 'e1000', 'e1000e', 'igb', 'ne2k_pci', 'pcnet', 'rtl8139', 'virtio']))
  .map(interface, 'interface ' + strings.quote(interface.name) + ' has model ' + strings.quote(interface.model) +
    ', which KubeVirt does not support')",
            fix: "use one of e1000, e1000e, igb, ne2k_pci, pcnet, rtl8139, virtio",
        },
        // The notations of Go's net.ParseMAC: bytes with : or -, pairs of bytes with a point, or no separator.
        Check {
            name: "malformedAddresses",
            found: "variables.interfaces
  .filter(interface, interface.?macAddress.orValue('') != '' && !interface.macAddress.matches(
    '^([0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}|[0-9a-fA-F]{2}(-[0-9a-fA-F]{2}){5}|' +
    '[0-9a-fA-F]{4}([.][0-9a-fA-F]{4}){2}|[0-9a-fA-F]{12})$'))
  .map(interface, 'interface ' + strings.quote(interface.name) + ' has a ' + (
    interface.macAddress.matches('^([0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){7}|[0-9a-fA-F]{2}(-[0-9a-fA-F]{2}){7}|' +
      '[0-9a-fA-F]{4}([.][0-9a-fA-F]{4}){3}|[0-9a-fA-F]{16})$') ? 'MAC address of 8 bytes instead of 6: ' :
    interface.macAddress.matches('^([0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){19}|[0-9a-fA-F]{2}(-[0-9a-fA-F]{2}){19}|' +
      '[0-9a-fA-F]{4}([.][0-9a-fA-F]{4}){9}|[0-9a-fA-F]{40})$') ? 'MAC address of 20 bytes instead of 6: ' :
    'malformed MAC address: ') + strings.quote(interface.macAddress))",
            fix: "write six bytes, as in 02:00:00:00:00:01",
        },
        Check {
            name: "malformedPciAddresses",
            found: "variables.interfaces
  .filter(interface, interface.?pciAddress.orValue('') != '' && !interface.pciAddress.matches(
    '^[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}[.][0-7]$'))
  .map(interface, 'interface ' + strings.quote(interface.name) + ' has a malformed PCI address: ' +
    strings.quote(interface.pciAddress))",
            fix: "write domain:bus:slot.function in hexadecimal, as in 0000:81:01.0, with a function from 0 to 7",
        },
        Check {
            name: "duplicatePortNames",
            found: "variables.interfaces
  .filter(interface, has(interface.ports) && interface.name in variables.podNetworks)
  .map(interface, [interface.ports.map(port, port.?name.orValue('')).filter(name, name != '')]
    .map(names, names.filter(name, names.indexOf(name) != names.lastIndexOf(name)))[0]
    .map(name, 'port name ' + strings.quote(name) + ' of interface ' + strings.quote(interface.name) +
      ' is already in use'))
  .filter(sentences, sentences.size() > 0)
  .map(sentences, sentences[0])",
            fix: "choose another name, or omit it",
        },
        // An IANA service name (RFC 6335).
        Check {
            name: "malformedPortNames",
            found: "variables.interfaces
  .filter(interface, has(interface.ports) && interface.name in variables.podNetworks)
  .map(interface, interface.ports.map(port, port.?name.orValue(''))
    .filter(name, name != '' && !(name.size() <= 15 && name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$') &&
      name.matches('[a-z]') && !name.contains('--')))
    .map(name, 'port name ' + strings.quote(name) + ' of interface ' + strings.quote(interface.name) + ' ' + (
      name.size() > 15 ? 'is longer than 15 characters' :
      !name.matches('^[a-z0-9-]*$') ? 'contains a character other than a-z, 0-9 and -' :
      !name.matches('[a-z]') ? 'has no letter' :
      name.contains('--') ? 'has two hyphens in a row' : 'starts or ends with a hyphen')))
  .filter(sentences, sentences.size() > 0)
  .map(sentences, sentences[0])",
            fix: "use 1 to 15 of a-z, 0-9 and single inner hyphens, with at least one letter, as in http-2",
        },
        Check {
            name: "portNumbers",
            found: "variables.interfaces
  .filter(interface, has(interface.ports) && interface.name in variables.podNetworks)
  .map(interface, interface.ports
    .filter(port, port.?port.orValue(0) < 1 || port.port > 65535)
    .map(port, port.?port.orValue(0) == 0 ?
      'ports[' + string(interface.ports.indexOf(port)) + '] of interface ' + strings.quote(interface.name) +
        ' has no port' :
      'port ' + string(port.port) + ' of interface ' + strings.quote(interface.name) + ' is outside 1 to 65535'))
  .filter(sentences, sentences.size() > 0)
  .map(sentences, sentences[0])",
            fix: "write a port from 1 to 65535",
        },
        Check {
            name: "portProtocols",
            found: "variables.interfaces
  .filter(interface, has(interface.ports) && interface.name in variables.podNetworks)
  .map(interface, interface.ports
    .filter(port, !(port.?protocol.orValue('') in ['', 'TCP', 'UDP']))
    .map(port, 'port ' + string(port.?port.orValue(0)) + ' of interface ' + strings.quote(interface.name) +
      ' has the unsupported protocol ' + strings.quote(port.protocol)))
  .filter(sentences, sentences.size() > 0)
  .map(sentences, sentences[0])",
            fix: "write TCP or UDP, or omit it for TCP",
        },
        Check {
            name: "duplicateOptions",
            found: "variables.interfaces
  .map(interface, [interface.?dhcpOptions.?privateOptions.orValue([]).map(option, option.?option.orValue(0))]
    .map(options, options.filter(option, options.indexOf(option) != options.lastIndexOf(option)))[0]
    .map(option, 'interface ' + strings.quote(interface.name) + ' has private DHCP option ' + string(option) +
      ' more than once'))
  .filter(sentences, sentences.size() > 0)
  .map(sentences, sentences[0])",
            fix: "remove one of them from dhcpOptions.privateOptions",
        },
        Check {
            name: "optionsOutOfRange",
            found: "variables.interfaces
  .map(interface, interface.?dhcpOptions.?privateOptions.orValue([]).map(option, option.?option.orValue(0))
    .filter(option, option < 224 || option > 254)
    .map(option, 'interface ' + strings.quote(interface.name) + ' has private DHCP option ' + string(option) +
      ', outside 224 to 254'))
  .filter(sentences, sentences.size() > 0)
  .map(sentences, sentences[0])",
            fix: "choose another number in dhcpOptions.privateOptions",
        },
        Check {
            name: "ntpServers",
            found: "variables.interfaces
  .map(interface, interface.?dhcpOptions.?ntpServers.orValue([])
    .filter(server, !server.contains(':') && !server.matches(
      '^0*(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])([.]0*(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])){3}$'))
    .map(server, 'interface ' + strings.quote(interface.name) + ' has NTP server ' + strings.quote(server) +
      ', which is not an IPv4 address'))
  .filter(sentences, sentences.size() > 0)
  .map(sentences, sentences[0])",
            fix: "write an address such as 192.0.2.1; this DHCP option cannot carry names or IPv6 addresses",
        },
    ],
    limits: &[
        "portRanges are not checked: their feature gate is in the KubeVirt resource.",
        "An NTP server that contains a colon is not checked: KubeVirt accepts some notations of IPv6 addresses.",
    ],
};

/// NP009.
pub(super) static RESOURCE_CLAIM: Policy = Policy {
    rule: "NP009",
    scope: Scope::Shape,
    checks: &[
        Check {
            name: "besideMultus",
            found: "[[variables.claims, variables.networks.filter(network, has(network.multus))]]
  .filter(lists, lists.all(list, list.size() > 0))
  .map(lists, lists.map(list, list[0].?name.orValue('')))
  .map(names, 'one VM cannot have both network ' + strings.quote(names[0]) + ' (resourceClaim) and network ' +
    strings.quote(names[1]) + ' (multus)')",
            fix: "use resourceClaim for all of them, or multus for all",
        },
        Check {
            name: "bindings",
            found: "variables.judgedClaims
  .map(network, network.?name.orValue(''))
  .filter(name, name in variables.interfaceNames)
  .filter(name, [variables.interfaces[variables.interfaceNames.indexOf(name)]].exists(interface,
    !has(interface.sriov) && !has(interface.binding) && !(name in variables.newerInterfaces &&
      ['bridge', 'masquerade', 'passtBinding', 'slirp', 'macvtap', 'passt'].all(key, !(key in interface)))))
  .map(name, 'the resourceClaim of network ' + strings.quote(name) +
    ' needs an interface with sriov or a binding plugin')",
            fix: "set sriov or binding in the interface",
        },
        Check {
            name: "missingNames",
            found: "variables.judgedClaims
  .filter(network, network.resourceClaim.?claimName.orValue('') == '' ||
    network.resourceClaim.?requestName.orValue('') == '')
  .map(network, 'the resourceClaim of network ' + strings.quote(network.?name.orValue('')) + ' has no ' +
    (network.resourceClaim.?claimName.orValue('') == '' ? 'claimName' : 'requestName'))",
            fix: "set claimName to a claim in resourceClaims and requestName to one of its requests",
        },
        Check {
            name: "notListed",
            found: "variables.completeClaims
  .filter(network, !(network.resourceClaim.claimName in
    variables.guest.?resourceClaims.orValue([]).map(claim, claim.?name.orValue(''))))
  .map(network, 'claim ' + strings.quote(network.resourceClaim.claimName) + ' of network ' +
    strings.quote(network.?name.orValue('')) + ' is not listed in resourceClaims')",
            fix: "add an entry with that name to resourceClaims",
        },
        Check {
            name: "sharedRequests",
            found: "[variables.claimRequests
  .filter(request, variables.claimRequests.indexOf(request) != variables.claimRequests.lastIndexOf(request))]
  .filter(requests, requests.size() > 0)
  .map(requests, requests[0])
  .map(request, [variables.completeClaims.filter(network,
      network.resourceClaim.claimName + '/' + network.resourceClaim.requestName == request)
    .map(network, network.?name.orValue(''))]
    .map(names, 'network ' + strings.quote(names[1]) + ' uses request ' + strings.quote(request) +
      ', as does network ' + strings.quote(names[0]))[0])",
            fix: "use a different request for each network",
        },
    ],
    limits: &["Whether feature gate NetworkDevicesWithDRA is on is not checked: it is in the KubeVirt resource."],
};
