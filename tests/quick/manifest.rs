//! What a manifest may say, and what is printed when it says something else.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sidecar_init::manifest::{MAX_BYTES, MAX_REPORTED};
use sidecar_init::policy::{self, Judgement, Problem};

const ROUTES: &str = "slug: a\nbottle:\n  egress:\n    routes:\n";

fn read(manifest: &str) -> Judgement {
    policy::read(manifest.as_bytes(), false, 0).unwrap_or_else(|refused| {
        unreachable!("refused:\n{}", shown(&refused.problems));
    })
}

fn shown(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| problem.display("manifest.yaml").to_string())
        .collect();
    lines.join("\n")
}

fn refused(manifest: impl AsRef<[u8]>) -> String {
    shown(
        &policy::read(manifest.as_ref(), true, 0)
            .unwrap_err()
            .problems,
    )
}

macro_rules! refuses {
    ($($name:ident: $manifest:literal => $report:literal;)+) => {
        $(#[test]
        fn $name() {
            assert_eq!(refused($manifest), $report);
        })+
    };
}

refuses! {
    refuses_a_host_with_a_scheme:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: https://pypi.example/simple\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"https://pypi.example/simple\" is not a host name: it is a URL\nhint: write \"pypi.example\"";
    refuses_a_host_with_a_port:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: \"pypi.example:443\"\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"pypi.example:443\" is not a host name: it has a port\nhint: write \"pypi.example\"";
    refuses_a_port_that_yaml_takes_for_part_of_the_text:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: pypi.example:8080\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"pypi.example:8080\" is not a host name: it has a port\nhint: write \"pypi.example\"";
    refuses_a_host_with_a_path:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: pypi.example/simple\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"pypi.example/simple\" is not a host name: it has a path\nhint: write \"pypi.example\"";
    refuses_a_host_with_a_user_name:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: git@git.example\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"git@git.example\" is not a host name: it has a user name\nhint: write \"git.example\"";
    refuses_a_host_with_a_space:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: \"a b.example\"\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a b.example\" is not a host name: it has a space";
    refuses_a_host_with_blanks_around_it:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: \" a.example \"\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \" a.example \" is not a host name: it has a space\nhint: write \"a.example\"";
    refuses_a_quote_that_would_inject_yaml:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 'a.example\"'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a.example\\\"\" is not a host name: it has a quote\nhint: write \"a.example\"";
    refuses_an_injected_line:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: \"a\\\"\\n  - \\\"b.example\"\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a\\\"\\n  - \\\"b.example\" is not a host name: it has a control character";
    refuses_a_backslash:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 'a\\b'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a\\\\b\" is not a host name: it has a backslash";
    refuses_terminal_escapes_and_prints_none:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: \"\\e]0;x\\a.example\"\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"\\u{1b}]0;x\\u{7}.example\" is not a host name: it has a control character";
    refuses_a_bidirectional_override_and_prints_none:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: \"a\\u202Eb.example\"\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a\\u{202e}b.example\" is not a host name: it is not ASCII, and names are compared as A-labels\nhint: write its A-label, the form that starts with \"xn--\"";
    refuses_a_bare_wildcard:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: '*'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"*\" is not a host name: a bare wildcard would have to allow every host, and matches none\nhint: name each host, or a domain as \"*.domain.example\"";
    refuses_a_wildcard_without_a_domain:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: '*.'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"*.\" is not a host name: a bare wildcard would have to allow every host, and matches none\nhint: name each host, or a domain as \"*.domain.example\"";
    refuses_a_wildcard_within_a_label:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 'a*.example'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a*.example\" is not a host name: a wildcard is only read as the whole first label\nhint: write \"*.\" and the domain";
    refuses_a_wildcard_in_a_later_label:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 'a.*.example'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a.*.example\" is not a host name: a wildcard is only read as the whole first label\nhint: write \"*.\" and the domain";
    refuses_a_wildcard_before_an_address:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: '*.10.0.0.1'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"*.10.0.0.1\" is not a host name: a wildcard cannot stand before an IP address";
    refuses_a_name_that_is_not_ascii_and_writes_its_a_label:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: bücher.example\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"bücher.example\" is not a host name: it is not ASCII, and names are compared as A-labels\nhint: write \"xn--bcher-kva.example\"";
    refuses_a_name_that_is_not_ascii_without_guessing_its_mapping:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: straße.example\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"straße.example\" is not a host name: it is not ASCII, and names are compared as A-labels\nhint: write its A-label, the form that starts with \"xn--\"";
    refuses_an_empty_label:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: a..example\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a..example\" is not a host name: it has an empty label";
    refuses_a_leading_dot:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: .example\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \".example\" is not a host name: it has an empty label\nhint: write \"*.example\"";
    refuses_squid_s_dot_before_a_domain:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: .corp.example\n    - .corp.example\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \".corp.example\" is not a host name: it has an empty label\nhint: write \"*.corp.example\"\nmanifest.yaml:6: bottle.egress.routes[1]: \".corp.example\" is not a mapping with a host\nhint: write \"- host: '*.corp.example'\"";
    refuses_a_network_for_a_host:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 10.0.0.0/8\n    - host: 10.0.0.1/32\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"10.0.0.0/8\" is not a host name: it is a network, and hosts are allowed one by one\nhint: name each host; a private network that hosts may be in is network.internal_cidr\nmanifest.yaml:6: bottle.egress.routes[1].host: \"10.0.0.1/32\" is not a host name: it is a network, and hosts are allowed one by one\nhint: write \"10.0.0.1\"";
    refuses_the_key_in_the_value:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: host:a.com\n    - host:a.com\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"host:a.com\" is not a host name: it has a port\nhint: write \"a.com\"\nmanifest.yaml:6: bottle.egress.routes[1]: \"host:a.com\" is not a mapping with a host\nhint: write \"- host: a.com\"";
    refuses_a_port_beside_a_host:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - port: 443\n      host: a.com\n"
        => "manifest.yaml:5: bottle.egress.routes[0].port: not a key that is read here\nhint: remove it; every port is allowed";
    refuses_wildcards_without_quotes_all_at_once:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: *.example.org\n    - *.example.net\n    - host: *.example.com:443 # c\npipelock:\n  passthrough: [*.example.org]\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"*.example.org\" is an alias to YAML, because it begins with \"*\" and stands without quotes\nhint: put it in quotes: \"*.example.org\"\nmanifest.yaml:6: bottle.egress.routes[1]: \"*.example.net\" is an alias to YAML, because it begins with \"*\" and stands without quotes\nhint: write \"- host: '*.example.net'\"\nmanifest.yaml:7: bottle.egress.routes[2].host: \"*.example.com:443\" is an alias to YAML, because it begins with \"*\" and stands without quotes\nhint: write \"*.example.com\"\nmanifest.yaml:9: pipelock.passthrough[0]: \"*.example.org\" is an alias to YAML, because it begins with \"*\" and stands without quotes\nhint: put it in quotes: \"*.example.org\"";
    refuses_a_single_star_without_quotes:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: *\n"
        => "manifest.yaml:5: not YAML: a single \"*\" or \"&\" without quotes\nhint: name each host, or a domain as \"*.domain.example\"";
    refuses_a_key_without_a_blank_behind_it:
        "version: 1\nslug:x\nbottle: {}\n"
        => "manifest.yaml:2: a blank is missing behind \"slug:\"\nhint: write \"slug: x\"";
    refuses_a_first_key_without_a_blank_behind_it:
        "slug:x\nbottle: {}\n"
        => "manifest.yaml:1: \"slug:x bottle\" stands where a mapping is wanted\nhint: write \"slug: x\"";
    refuses_a_last_key_without_a_blank_behind_it:
        "slug: a\nbottle: {}\npipelock:\n  listen:8888 # c\n"
        => "manifest.yaml:4: pipelock: \"listen:8888\" stands where a mapping is wanted\nhint: write \"listen: 8888\"";
    refuses_an_unknown_anchor_in_what_is_not_ours:
        "slug: a\nbottle: {git: [*nowhere]}\n"
        => "manifest.yaml:2: not YAML: while parsing node, found unknown anchor\nhint: a value that begins with \"*\" stands in quotes; without them it is an alias";
    names_the_place_of_a_key_of_another_part_of_the_bottle:
        "slug: a\nbottle:\n  routes: []\n"
        => "manifest.yaml:3: bottle.routes: not a key that is read here\nhint: did you mean \"bottle.egress.routes\"?";
    refuses_two_final_dots:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: a.example..\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a.example..\" is not a host name: it has an empty label\nhint: write \"a.example\"";
    refuses_a_label_of_64_characters:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" is not a host name: a label has 64 characters, more than 63";
    refuses_a_name_of_254_characters:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaa\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.aaaaaaaaaaaaaa…\" is not a host name: it has 254 characters, more than 253";
    refuses_a_label_that_ends_with_a_hyphen:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: a-.example\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a-.example\" is not a host name: a label starts or ends with a hyphen";
    refuses_a_character_that_no_name_has:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: a$b.example\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"a$b.example\" is not a host name: \"$\" is not a letter, digit, hyphen or underscore";
    refuses_an_ipv4_address_with_a_leading_zero:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 010.0.0.1\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"010.0.0.1\" is not a host name: it ends in a number, but is no IPv4 address in its usual form\nhint: write four numbers from 0 to 255 without leading zeros";
    refuses_an_ipv4_address_in_short_form:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 10.1\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"10.1\" is a number, not a host name";
    refuses_a_number_where_a_host_is_wanted:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 1.2\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"1.2\" is a number, not a host name";
    refuses_a_hexadecimal_address:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: \"0x7f000001\"\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"0x7f000001\" is not a host name: it ends in a number, but is no IPv4 address in its usual form\nhint: write four numbers from 0 to 255 without leading zeros";
    refuses_an_ipv6_address_in_brackets:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: '[2001:db8::1]'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"[2001:db8::1]\" is not a host name: it has brackets or a port\nhint: write \"2001:db8::1\"";
    refuses_an_ipv6_address_in_long_form:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: '2001:db8:0::1'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"2001:db8:0::1\" is not a host name: pipelock compares addresses as text, and this is not the shortest form (RFC 5952)\nhint: write \"2001:db8::1\"";
    refuses_an_ipv6_address_with_a_zone:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: 'fe80::1%eth0'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"fe80::1%eth0\" is not a host name: it has a zone or a percent sign\nhint: write \"fe80::1\"";
    refuses_an_ipv4_address_in_ipv6_form:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: '::ffff:10.0.0.1'\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: \"::ffff:10.0.0.1\" is not a host name: it is an IPv4 address in IPv6 form\nhint: write \"10.0.0.1\"";
    refuses_a_host_that_is_a_list:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: [a.example]\n"
        => "manifest.yaml:5: bottle.egress.routes[0].host: a list stands where one value is wanted";
    refuses_host_and_capital_host_that_differ:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: a.example\n      Host: b.example\n"
        => "manifest.yaml:5: bottle.egress.routes[0]: host is \"a.example\" and Host is \"b.example\"\nhint: keep one of them";
    refuses_a_route_that_is_a_string:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - a.example\n"
        => "manifest.yaml:5: bottle.egress.routes[0]: \"a.example\" is not a mapping with a host\nhint: write \"- host: a.example\"";
    refuses_an_empty_route:
        "slug: a\nbottle:\n  egress:\n    routes:\n    -\n"
        => "manifest.yaml:5: bottle.egress.routes[0]: an empty entry; a route is a mapping with a host\nhint: write \"- host: name.example\", or remove the entry";
    refuses_routes_that_are_a_mapping:
        "slug: a\nbottle:\n  egress:\n    routes: {host: a.example}\n"
        => "manifest.yaml:4: bottle.egress.routes: a mapping stands where a list is wanted\nhint: write a list: \"- host: NAME\" for each route";
    refuses_routes_that_are_one_host:
        "slug: a\nbottle:\n  egress:\n    routes: a.example\n"
        => "manifest.yaml:4: bottle.egress.routes: \"a.example\" stands where a list is wanted\nhint: write [{host: a.example}]";
    refuses_routes_that_are_some_hosts:
        "slug: a\nbottle:\n  egress:\n    routes: a.example, '*.b.example'\n"
        => "manifest.yaml:4: bottle.egress.routes: \"a.example, '*.b.example'\" stands where a list is wanted\nhint: write [{host: a.example}, {host: \"*.b.example\"}]";
    refuses_name_servers_by_name_without_a_list:
        "slug: a\nbottle: {}\nnetwork:\n  dns: dns.example\n"
        => "manifest.yaml:4: network.dns: \"dns.example\" stands where a list is wanted";
    refuses_a_missing_slug:
        "bottle: {}\n"
        => "manifest.yaml: slug: required, and not there\nhint: write \"slug: NAME\", the agent's name";
    refuses_a_missing_bottle:
        "slug: a\n"
        => "manifest.yaml: bottle: required, and not there\nhint: write \"bottle: {}\" for one that may reach nothing";
    takes_a_null_bottle_for_a_missing_one:
        "slug: a\nbottle:\n"
        => "manifest.yaml: bottle: required, and not there\nhint: write \"bottle: {}\" for one that may reach nothing";
    refuses_another_version:
        "version: 2\nslug: a\nbottle: {}\n"
        => "manifest.yaml:1: version: \"2\" is not a version this program reads\nhint: write 1, without quotes";
    refuses_a_version_in_quotes:
        "version: \"1\"\nslug: a\nbottle: {}\n"
        => "manifest.yaml:1: version: \"1\" is not a version this program reads\nhint: write 1, without quotes";
    refuses_a_slug_with_capitals:
        "slug: Dev_Agent\nbottle: {}\n"
        => "manifest.yaml:1: slug: \"Dev_Agent\" is not a slug: it takes lower-case letters, digits and hyphens between them, at most 63\nhint: write \"dev-agent\"";
    refuses_a_slug_of_64_characters:
        "slug: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nbottle: {}\n"
        => "manifest.yaml:1: slug: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\" is not a slug: it takes lower-case letters, digits and hyphens between them, at most 63\nhint: write \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"";
    refuses_a_slug_that_starts_with_a_hyphen:
        "slug: -a\nbottle: {}\n"
        => "manifest.yaml:1: slug: \"-a\" is not a slug: it takes lower-case letters, digits and hyphens between them, at most 63\nhint: write \"a\"";
    refuses_a_slug_that_yaml_takes_for_a_number:
        "slug: 123\nbottle: {}\n"
        => "manifest.yaml:1: slug: \"123\" is not a slug: YAML takes it for a number or a boolean\nhint: put it in quotes: \"123\"";
    refuses_a_bottle_that_is_a_list:
        "slug: a\nbottle: []\n"
        => "manifest.yaml:2: bottle: a list stands where a mapping is wanted\nhint: write its keys without \"- \" and brackets";
    refuses_a_section_that_is_a_word:
        "slug: a\nbottle: {}\nnetwork: none\n"
        => "manifest.yaml:3: network: \"none\" stands where a mapping is wanted";
    refuses_an_unknown_key_and_names_the_nearest:
        "slug: a\nbottle: {}\nsuperviser: {}\n"
        => "manifest.yaml:3: superviser: unknown key\nhint: did you mean \"supervisor\"?";
    refuses_a_key_of_another_section_and_says_where_it_belongs:
        "slug: a\nbottle: {}\nlisten: 0.0.0.0:8888\n"
        => "manifest.yaml:3: listen: unknown key\nhint: did you mean \"pipelock.listen\"?";
    refuses_an_unknown_key_that_is_near_to_none:
        "slug: a\nbottle: {}\nxyzzy: 1\n"
        => "manifest.yaml:3: xyzzy: unknown key";
    refuses_an_unknown_key_in_a_section:
        "slug: a\nbottle: {}\nnetwork:\n  internal-cidr: 10.0.0.0/8\n"
        => "manifest.yaml:4: network.internal-cidr: unknown key\nhint: did you mean \"internal_cidr\"?";
    names_an_empty_key:
        "slug: a\nbottle: {}\n'': 1\n"
        => "manifest.yaml:3: \"\": unknown key";
    escapes_an_unknown_key:
        "slug: a\nbottle: {}\n\"x\\e[2J\\nmanifest.yaml:1\": 1\n"
        => "manifest.yaml:3: \"x\\u{1b}[2J\\nmanifest.yaml:1\": unknown key";
    refuses_a_repeated_key:
        "slug: a\nbottle: {}\nslug: b\n"
        => "manifest.yaml:3: slug: the key is there twice; each may be written once";
    refuses_a_repeated_key_in_a_route:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - host: a.example\n      host: b.example\n"
        => "manifest.yaml:6: bottle.egress.routes[0].host: the key is there twice; each may be written once";
    refuses_a_key_that_is_a_list:
        "slug: a\nbottle: {}\n[a, b]: 1\n"
        => "manifest.yaml:3: a list or mapping stands where a key is wanted";
    refuses_yes_for_true:
        "slug: a\nbottle: {supervise: yes}\n"
        => "manifest.yaml:2: bottle.supervise: \"yes\" is neither true nor false\nhint: write true, without quotes";
    refuses_off_for_false:
        "slug: a\nbottle: {supervise: off}\n"
        => "manifest.yaml:2: bottle.supervise: \"off\" is neither true nor false\nhint: write false, without quotes";
    refuses_true_in_quotes:
        "slug: a\nbottle: {supervise: \"true\"}\n"
        => "manifest.yaml:2: bottle.supervise: \"true\" is neither true nor false\nhint: write true, without quotes";
    refuses_a_word_for_a_boolean:
        "slug: a\nbottle: {supervise: maybe}\n"
        => "manifest.yaml:2: bottle.supervise: \"maybe\" is neither true nor false";
    refuses_a_cidr_with_host_bits:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: 100.96.1.7/24\n"
        => "manifest.yaml:4: network.internal_cidr: \"100.96.1.7/24\" is not a network: it has host bits set\nhint: write \"100.96.1.0/24\"";
    refuses_an_ipv6_cidr_with_host_bits:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: fd00::1/64\n"
        => "manifest.yaml:4: network.internal_cidr: \"fd00::1/64\" is not a network: it has host bits set\nhint: write \"fd00::/64\"";
    refuses_every_address_as_internal:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: 0.0.0.0/0\n"
        => "manifest.yaml:4: network.internal_cidr: \"0.0.0.0/0\" is every address, and would turn pipelock's SSRF protection off\nhint: write the internal network alone";
    refuses_a_bare_ipv4_address_as_cidr:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: 100.96.1.2\n"
        => "manifest.yaml:4: network.internal_cidr: \"100.96.1.2\" is not a CIDR: it has no prefix length\nhint: write \"100.96.1.2/32\"";
    refuses_a_bare_ipv6_address_as_cidr:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: fd00::1\n"
        => "manifest.yaml:4: network.internal_cidr: \"fd00::1\" is not a CIDR: it has no prefix length\nhint: write \"fd00::1/128\"";
    refuses_a_cidr_with_a_leading_zero:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: 010.0.0.0/8\n"
        => "manifest.yaml:4: network.internal_cidr: \"010.0.0.0/8\" is not a CIDR: \"010.0.0.0\" is not an IP address";
    refuses_a_prefix_length_with_a_leading_zero:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: 10.0.0.0/08\n"
        => "manifest.yaml:4: network.internal_cidr: \"10.0.0.0/08\" is not a CIDR: \"08\" is not a prefix length from 0 to 32";
    refuses_a_prefix_length_of_33:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: 10.0.0.0/33\n"
        => "manifest.yaml:4: network.internal_cidr: \"10.0.0.0/33\" is not a CIDR: \"33\" is not a prefix length from 0 to 32";
    refuses_a_signed_prefix_length:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: 10.0.0.0/+8\n"
        => "manifest.yaml:4: network.internal_cidr: \"10.0.0.0/+8\" is not a CIDR: \"+8\" is not a prefix length from 0 to 32";
    refuses_a_cidr_with_a_zone:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: fe80::%eth0/64\n"
        => "manifest.yaml:4: network.internal_cidr: \"fe80::%eth0/64\" is not a CIDR: it has a zone";
    refuses_a_cidr_of_ipv4_in_ipv6_form:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: \"::ffff:10.0.0.0/104\"\n"
        => "manifest.yaml:4: network.internal_cidr: \"::ffff:10.0.0.0/104\" is not a CIDR: it is an IPv4 address in IPv6 form\nhint: write it as IPv4, starting \"10.0.0.0/\"";
    refuses_a_cidr_that_is_not_in_its_shortest_form:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: FD00:0:0::/64\n"
        => "manifest.yaml:4: network.internal_cidr: \"FD00:0:0::/64\" is not in its usual form\nhint: write \"fd00::/64\"";
    refuses_a_cidr_that_is_a_word:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: internal\n"
        => "manifest.yaml:4: network.internal_cidr: \"internal\" is not a CIDR: an address, a slash and a prefix length are wanted";
    refuses_several_cidrs:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: [10.0.0.0/8]\n"
        => "manifest.yaml:4: network.internal_cidr: a list stands where one value is wanted";
    refuses_a_cidr_that_is_a_number:
        "slug: a\nbottle: {}\nnetwork:\n  internal_cidr: 10.0\n"
        => "manifest.yaml:4: network.internal_cidr: \"10.0\" is a number, not a CIDR";
    refuses_a_hosts_entry_with_a_wildcard:
        "slug: a\nbottle: {}\nnetwork:\n  hosts: {\"*.a\": 10.0.0.1}\n"
        => "manifest.yaml:4: network.hosts.\"*.a\": \"*.a\" is not a host name: a hosts entry cannot have a wildcard";
    refuses_a_hosts_entry_for_an_address:
        "slug: a\nbottle: {}\nnetwork:\n  hosts: {10.0.0.1: supervise}\n"
        => "manifest.yaml:4: network.hosts.\"10.0.0.1\": \"10.0.0.1\" is not a host name: it is an IP address\nhint: write \"NAME: ADDRESS\"\nmanifest.yaml:4: network.hosts.\"10.0.0.1\": \"supervise\" is not an IP address";
    refuses_a_hosts_entry_without_an_address:
        "slug: a\nbottle: {}\nnetwork:\n  hosts: {supervise: }\n"
        => "manifest.yaml:4: network.hosts.supervise: \"\" is nothing, not an IP address";
    refuses_a_hosts_entry_for_localhost:
        "slug: a\nbottle: {}\nnetwork:\n  hosts: {localhost: 10.0.0.1}\n"
        => "manifest.yaml:4: network.hosts.localhost: localhost is always 127.0.0.1";
    refuses_the_same_hosts_entry_twice:
        "slug: a\nbottle: {}\nnetwork:\n  hosts: {a: 10.0.0.1, A: 10.0.0.2}\n"
        => "manifest.yaml:4: network.hosts.A: the name \"a\" is there twice";
    refuses_a_hosts_address_with_a_prefix_length:
        "slug: a\nbottle: {}\nnetwork:\n  hosts: {a: 10.0.0.1/24}\n"
        => "manifest.yaml:4: network.hosts.a: \"10.0.0.1/24\" is not an IP address\nhint: write \"10.0.0.1\"";
    refuses_an_interface_address_without_prefix_length:
        "slug: a\nbottle: {}\nnetwork:\n  address: 10.0.2.15\n"
        => "manifest.yaml:4: network.address: \"10.0.2.15\" is not an address with a prefix length: it has no prefix length\nhint: add the prefix length, such as \"10.0.2.15/24\"";
    refuses_the_network_address_as_interface_address:
        "slug: a\nbottle: {}\nnetwork:\n  address: 10.0.2.0/24\n"
        => "manifest.yaml:4: network.address: \"10.0.2.0/24\" is the network address, not a host's";
    refuses_the_broadcast_address_as_interface_address:
        "slug: a\nbottle: {}\nnetwork:\n  address: 10.0.2.255/24\n"
        => "manifest.yaml:4: network.address: \"10.0.2.255/24\" is the broadcast address, not a host's";
    refuses_a_gateway_that_cannot_be_reached:
        "slug: a\nbottle: {}\nnetwork:\n  address: 10.0.2.15/24\n  gateway: 10.0.3.1\n"
        => "manifest.yaml:5: network.gateway: \"10.0.3.1\" is not in the network of 10.0.2.15/24, so nothing leads to it";
    refuses_the_own_address_as_gateway:
        "slug: a\nbottle: {}\nnetwork:\n  address: 10.0.2.15/24\n  gateway: 10.0.2.15\n"
        => "manifest.yaml:5: network.gateway: \"10.0.2.15\" is the machine's own address";
    refuses_a_multicast_name_server:
        "slug: a\nbottle: {}\nnetwork:\n  dns: [224.0.0.1]\n"
        => "manifest.yaml:4: network.dns[0]: \"224.0.0.1\" is a multicast address, not a host's";
    refuses_a_name_server_by_name:
        "slug: a\nbottle: {}\nnetwork:\n  dns: [dns.example]\n"
        => "manifest.yaml:4: network.dns[0]: \"dns.example\" is not an IP address";
    refuses_a_single_name_server_without_a_list:
        "slug: a\nbottle: {}\nnetwork:\n  dns: 10.0.2.3\n"
        => "manifest.yaml:4: network.dns: \"10.0.2.3\" stands where a list is wanted\nhint: write [10.0.2.3]";
    refuses_a_fourth_name_server:
        "slug: a\nbottle: {}\nnetwork:\n  dns: [10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4]\n"
        => "manifest.yaml:4: network.dns[3]: a resolver reads 3 name servers, and here are 4";
    refuses_a_network_name_with_a_space:
        "slug: a\nbottle: {}\nnetwork:\n  internal: a b\n"
        => "manifest.yaml:4: network.internal: \"a b\" is not a network name: it takes letters, digits, \"_\", \".\" and \"-\" after a letter or digit, at most 128";
    refuses_to_listen_without_an_address:
        "slug: a\nbottle: {}\npipelock:\n  listen: \":8888\"\n"
        => "manifest.yaml:4: pipelock.listen: \":8888\" is not an IP address and a port\nhint: write \"0.0.0.0:8888\"";
    refuses_to_listen_on_a_port_alone:
        "slug: a\nbottle: {}\npipelock:\n  listen: 8888\n"
        => "manifest.yaml:4: pipelock.listen: \"8888\" is not an IP address and a port\nhint: write \"0.0.0.0:8888\"";
    refuses_to_listen_on_a_name:
        "slug: a\nbottle: {}\npipelock:\n  listen: localhost:8888\n"
        => "manifest.yaml:4: pipelock.listen: \"localhost:8888\" is not an IP address and a port\nhint: write \"127.0.0.1:8888\"";
    refuses_to_listen_without_a_port:
        "slug: a\nbottle: {}\npipelock:\n  listen: 0.0.0.0\n"
        => "manifest.yaml:4: pipelock.listen: \"0.0.0.0\" is not an IP address and a port\nhint: write \"0.0.0.0:8888\"";
    refuses_to_listen_on_port_0:
        "slug: a\nbottle: {}\npipelock:\n  listen: 0.0.0.0:0\n"
        => "manifest.yaml:4: pipelock.listen: \"0.0.0.0:0\" has port 0, which is a different port at every start\nhint: write a port from 1 to 65535";
    refuses_to_listen_on_port_65536:
        "slug: a\nbottle: {}\npipelock:\n  listen: 0.0.0.0:65536\n"
        => "manifest.yaml:4: pipelock.listen: \"0.0.0.0:65536\" is not an IP address and a port\nhint: write one address and a port, as in \"0.0.0.0:8888\" or \"[::1]:8888\"";
    hints_at_the_address_that_was_written:
        "slug: a\nbottle: {}\npipelock:\n  listen: \" 127.0.0.1:8888 \"\n"
        => "manifest.yaml:4: pipelock.listen: \" 127.0.0.1:8888 \" is not an IP address and a port\nhint: write \"127.0.0.1:8888\"";
    hints_at_an_address_in_brackets:
        "slug: a\nbottle: {}\npipelock:\n  listen: \"[::1]\"\n"
        => "manifest.yaml:4: pipelock.listen: \"[::1]\" is not an IP address and a port\nhint: write \"[::1]:8888\"";
    never_widens_an_address_to_every_address:
        "slug: a\nbottle: {}\npipelock:\n  listen: \"1.2.3.4:\"\n"
        => "manifest.yaml:4: pipelock.listen: \"1.2.3.4:\" is not an IP address and a port\nhint: write one address and a port, as in \"0.0.0.0:8888\" or \"[::1]:8888\"";
    counts_a_route_that_is_none:
        "slug: a\nbottle:\n  egress:\n    routes:\n    - a.example\n    - host: b:80\n"
        => "manifest.yaml:5: bottle.egress.routes[0]: \"a.example\" is not a mapping with a host\nhint: write \"- host: a.example\"\nmanifest.yaml:6: bottle.egress.routes[1].host: \"b:80\" is not a host name: it has a port\nhint: write \"b\"";
    refuses_to_pass_through_what_no_route_allows:
        "slug: a\nbottle: {egress: {routes: [host: a.example]}}\npipelock:\n  passthrough:\n  - a.example\n  - b.example\n  - '*.a.example'\n"
        => "manifest.yaml:6: pipelock.passthrough[1]: \"b.example\" is not allowed by any route, so nothing could be passed through to it\nhint: add below bottle.egress.routes: - host: b.example\nmanifest.yaml:7: pipelock.passthrough[2]: \"*.a.example\" is wider than the routes, which allow only some of its hosts\nhint: list the single hosts in pipelock.passthrough: a.example";
    refuses_to_pass_through_more_than_the_routes_allow:
        "slug: a\nbottle: {egress: {routes: [host: a.example, host: b.a.example, host: \"*.c.a.example\", host: xa.example]}}\npipelock:\n  passthrough: ['*.a.example', '*.d.example']\n"
        => "manifest.yaml:4: pipelock.passthrough[0]: \"*.a.example\" is wider than the routes, which allow only some of its hosts\nhint: list the single hosts in pipelock.passthrough: \"*.c.a.example\", a.example, b.a.example\nmanifest.yaml:4: pipelock.passthrough[1]: \"*.d.example\" is not allowed by any route, so nothing could be passed through to it\nhint: add below bottle.egress.routes: - host: \"*.d.example\"";
    names_some_of_many_hosts_below_a_wildcard:
        "slug: a\nbottle: {egress: {routes: [host: a.e.test, host: b.e.test, host: c.e.test, host: d.e.test, host: e.e.test, host: f.e.test, host: g.e.test, host: h.e.test, host: i.e.test, host: j.e.test]}}\npipelock:\n  passthrough: ['*.e.test']\n"
        => "manifest.yaml:4: pipelock.passthrough[0]: \"*.e.test\" is wider than the routes, which allow only some of its hosts\nhint: list the single hosts in pipelock.passthrough: a.e.test, b.e.test, c.e.test, d.e.test, e.e.test, f.e.test, g.e.test, h.e.test, and 2 more";
    refuses_to_pass_through_a_url:
        "slug: a\nbottle: {egress: {routes: [host: a.example]}}\npipelock:\n  passthrough: [\"https://a.example/x\", 7, [a], {b: c}]\n"
        => "manifest.yaml:4: pipelock.passthrough[0]: \"https://a.example/x\" is not a host name: it is a URL\nhint: write \"a.example\"\nmanifest.yaml:4: pipelock.passthrough[1]: \"7\" is a number, not a host name\nmanifest.yaml:4: pipelock.passthrough[2]: not a host name\nmanifest.yaml:4: pipelock.passthrough[3]: not a host name";
    a_passthrough_that_has_no_route_either_is_told_all_there_is_to_do:
        "slug: a\nbottle: {egress: {routes: [host: a.example, host: b.c.example]}}\npipelock:\n  passthrough: [\"https://b.example/x\", \"1e3\", 1e3, \"*.c.example:443\"]\n"
        => "manifest.yaml:4: pipelock.passthrough[0]: \"https://b.example/x\" is not a host name: it is a URL\nhint: write \"b.example\" here, and add below bottle.egress.routes: - host: b.example\nmanifest.yaml:4: pipelock.passthrough[1]: \"1e3\" is not allowed by any route, so nothing could be passed through to it\nhint: add below bottle.egress.routes: - host: \"1e3\"\nmanifest.yaml:4: pipelock.passthrough[2]: \"1e3\" is a number, not a host name\nhint: write \"1e3\" here, and add below bottle.egress.routes: - host: \"1e3\"\nmanifest.yaml:4: pipelock.passthrough[3]: \"*.c.example:443\" is not a host name: it has a port\nhint: list the single hosts in pipelock.passthrough: b.c.example";
    a_gateway_is_not_told_to_become_one_that_is_refused:
        "slug: a\nbottle: {}\nnetwork:\n  address: 10.0.2.15/24\n  gateway: \"fe80::1%eth0\"\n"
        => "manifest.yaml:5: network.gateway: \"fe80::1%eth0\" is not an IP address\nhint: write another address of the network of 10.0.2.15/24";
    a_gateway_within_reach_is_told_its_form:
        "slug: a\nbottle: {}\nnetwork:\n  address: fd00::2/64\n  gateway: \"fe80::1%eth0\"\n"
        => "manifest.yaml:5: network.gateway: \"fe80::1%eth0\" is not an IP address\nhint: write \"fe80::1\"";
    refuses_to_listen_on_a_multicast_address:
        "slug: a\nbottle: {}\npipelock:\n  listen: 224.0.0.1:8888\n"
        => "manifest.yaml:4: pipelock.listen: \"224.0.0.1:8888\" has a multicast address, and no server listens there\nhint: write an address of the machine's own, and a port";
    refuses_to_listen_on_a_multicast_address_of_ipv6:
        "slug: a\nbottle: {}\npipelock:\n  listen: '[ff02::1]:8888'\n"
        => "manifest.yaml:4: pipelock.listen: \"[ff02::1]:8888\" has a multicast address, and no server listens there\nhint: write an address of the machine's own, and a port";
    refuses_to_listen_on_the_broadcast_address:
        "slug: a\nbottle: {}\npipelock:\n  listen: 255.255.255.255:8888\n"
        => "manifest.yaml:4: pipelock.listen: \"255.255.255.255:8888\" has the broadcast address, and no server listens there\nhint: write an address of the machine's own, and a port";
    refuses_to_listen_on_a_link_local_address_whose_zone_is_not_read:
        "slug: a\nbottle: {}\npipelock:\n  listen: '[fe80::1]:8888'\n"
        => "manifest.yaml:4: pipelock.listen: \"[fe80::1]:8888\" has a link-local address, and no server listens there\nhint: write an address of the machine's own, and a port";
    a_listener_in_ipv6_form_is_told_its_form:
        "slug: a\nbottle: {}\npipelock:\n  listen: '[::ffff:10.0.0.1]:8888'\n"
        => "manifest.yaml:4: pipelock.listen: \"[::ffff:10.0.0.1]:8888\" is not an IP address and a port\nhint: write \"10.0.0.1:8888\"";
    a_mapping_for_a_list_is_told_how_to_write_one:
        "slug: a\nbottle: {}\npipelock:\n  passthrough:\n    a.example: true\n"
        => "manifest.yaml:5: pipelock.passthrough: a mapping stands where a list is wanted\nhint: write a list: \"- VALUE\" for each entry";
    refuses_a_passthrough_that_is_no_list:
        "slug: a\nbottle: {egress: {routes: [host: a.example]}}\npipelock:\n  passthrough: a.example\n"
        => "manifest.yaml:4: pipelock.passthrough: \"a.example\" stands where a list is wanted\nhint: write [a.example]";
    refuses_a_scan_limit_of_a_gigabyte:
        "slug: a\nbottle: {}\npipelock:\n  scan_limit_mib: 1024\n"
        => "manifest.yaml:4: pipelock.scan_limit_mib: \"1024\" is not an integer from 1 to 256";
    refuses_a_scan_limit_of_nothing:
        "slug: a\nbottle: {}\npipelock:\n  scan_limit_mib: 0\n"
        => "manifest.yaml:4: pipelock.scan_limit_mib: \"0\" is not an integer from 1 to 256";
    refuses_to_allow_the_canary:
        "slug: a\nbottle: {egress: {routes: [host: Canary.Invalid.]}}\n"
        => "manifest.yaml:2: bottle.egress.routes[0].host: \"Canary.Invalid.\" is reserved for the init's own proof: pipelock has to refuse it\nhint: remove the entry: names below \".invalid\" never resolve (RFC 2606)";
    refuses_a_wildcard_that_would_allow_the_canary:
        "slug: a\nbottle: {egress: {routes: [host: \"*.invalid\", host: \"*.CANARY.invalid\"]}}\n"
        => "manifest.yaml:2: bottle.egress.routes[0].host: \"*.invalid\" stands for canary.invalid, which is reserved for the init's own proof: pipelock has to refuse it\nhint: remove the entry: names below \".invalid\" never resolve (RFC 2606)\nmanifest.yaml:2: bottle.egress.routes[1].host: \"*.CANARY.invalid\" stands for canary.invalid, which is reserved for the init's own proof: pipelock has to refuse it\nhint: remove the entry: names below \".invalid\" never resolve (RFC 2606)";
    refuses_an_address_for_the_canary:
        "slug: a\nbottle: {}\nnetwork:\n  hosts: {canary.invalid: 10.0.0.1}\n"
        => "manifest.yaml:4: network.hosts.\"canary.invalid\": \"canary.invalid\" is reserved for the init's own proof: pipelock has to refuse it\nhint: remove the entry: names below \".invalid\" never resolve (RFC 2606)";
    refuses_no_requests_at_all:
        "slug: a\nbottle: {}\npipelock:\n  requests_per_minute: 0\n"
        => "manifest.yaml:4: pipelock.requests_per_minute: \"0\" is not an integer from 1 to 1000000";
    refuses_a_negative_limit:
        "slug: a\nbottle: {}\npipelock:\n  max_tunnel_seconds: -1\n"
        => "manifest.yaml:4: pipelock.max_tunnel_seconds: \"-1\" is not an integer from 1 to 2592000";
    refuses_a_limit_in_quotes:
        "slug: a\nbottle: {}\npipelock:\n  idle_timeout_seconds: \"600\"\n"
        => "manifest.yaml:4: pipelock.idle_timeout_seconds: \"600\" is not an integer from 1 to 2592000\nhint: write it without quotes and leading zeros";
    refuses_a_limit_with_a_unit:
        "slug: a\nbottle: {}\npipelock:\n  idle_timeout_seconds: 600s\n"
        => "manifest.yaml:4: pipelock.idle_timeout_seconds: \"600s\" is not an integer from 1 to 2592000\nhint: write the number without a unit";
    refuses_a_limit_that_overflows:
        "slug: a\nbottle: {}\npipelock:\n  requests_per_minute: 99999999999999999999\n"
        => "manifest.yaml:4: pipelock.requests_per_minute: \"99999999999999999999\" is not an integer from 1 to 1000000";
    refuses_a_fraction_of_a_second:
        "slug: a\nbottle: {}\nsupervisor:\n  grace_seconds: 0.5\n"
        => "manifest.yaml:4: supervisor.grace_seconds: \"0.5\" is not an integer from 1 to 600";
    refuses_a_grace_period_of_nothing:
        "slug: a\nbottle: {}\nsupervisor:\n  grace_seconds: 0\n"
        => "manifest.yaml:4: supervisor.grace_seconds: \"0\" is not an integer from 1 to 600";
    refuses_a_grace_period_of_an_hour:
        "slug: a\nbottle: {}\nsupervisor:\n  grace_seconds: 3600\n"
        => "manifest.yaml:4: supervisor.grace_seconds: \"3600\" is not an integer from 1 to 600";
    refuses_an_endless_drain:
        "slug: a\nbottle: {}\nsupervisor:\n  drain_seconds: .inf\n"
        => "manifest.yaml:4: supervisor.drain_seconds: \".inf\" is not an integer from 0 to 3600";
    refuses_an_empty_manifest:
        ""
        => "manifest.yaml: the manifest is empty\nhint: slug and bottle are required";
    refuses_a_manifest_of_comments:
        "# nothing\n"
        => "manifest.yaml: the manifest is empty\nhint: slug and bottle are required";
    refuses_a_manifest_that_is_a_list:
        "- a\n"
        => "manifest.yaml:1: a list stands where a mapping is wanted\nhint: write its keys without \"- \" and brackets";
    refuses_a_manifest_that_is_a_word:
        "hello\n"
        => "manifest.yaml:1: \"hello\" stands where a mapping is wanted";
    refuses_a_second_document:
        "slug: a\nbottle: {}\n---\nslug: b\n"
        => "manifest.yaml:3: a second document starts here; a manifest is one document";
    refuses_text_after_the_end_of_json:
        "{\"slug\": \"a\", \"bottle\": {}}\n]\n"
        => "manifest.yaml:2: not YAML: misplaced bracket";
    refuses_an_alias:
        "slug: &s a\nbottle: {supervise: *s}\n"
        => "manifest.yaml:2: bottle.supervise: aliases (*name) are not read\nhint: write the value out";
    refuses_a_merge_key_even_in_a_route:
        "slug: a\nbottle:\n  egress:\n    x: &x {host: a.example}\n    routes:\n    - <<: *x\n"
        => "manifest.yaml:4: bottle.egress.x: not a key that is read here\nmanifest.yaml:6: bottle.egress.routes[0].<<: merge keys are not read\nhint: write the keys out";
    refuses_a_recursive_alias:
        "slug: a\nbottle: &b {egress: {routes: [*b]}}\n"
        => "manifest.yaml:2: bottle.egress.routes[0]: aliases (*name) are not read\nhint: write the value out";
    refuses_an_unknown_anchor:
        "slug: *nowhere\nbottle: {}\n"
        => "manifest.yaml:1: slug: aliases (*name) are not read\nhint: write the value out";
    refuses_a_tag:
        "slug: !!str a\nbottle: {}\n"
        => "manifest.yaml:1: slug: the tag \"!!str\" is not read\nhint: remove it; a quoted value is text";
    refuses_a_tag_of_its_own:
        "slug: !secret a\nbottle: {}\n"
        => "manifest.yaml:1: slug: the tag \"!secret\" is not read\nhint: remove it; a quoted value is text";
    refuses_an_unclosed_bracket:
        "slug: a\nbottle: {\n"
        => "manifest.yaml:3: not YAML: while parsing a node, did not find expected node content";
    refuses_an_unclosed_quote:
        "slug: \"a\nbottle: {}\n"
        => "manifest.yaml:1: not YAML: invalid indentation in quoted scalar\nhint: close the quote";
    refuses_a_tab_for_indentation:
        "slug: a\nbottle:\n\tsupervise: true\n"
        => "manifest.yaml:3: not YAML: tabs disallowed within this context (block indentation)\nhint: indent with blanks: YAML takes no tabs there";
}

#[test]
fn reads_every_key() {
    let policy = read(include_str!("../fixtures/manifests/everything.yaml")).policy;
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(policy.slug, "dev-agent");
    assert_eq!(
        policy.allowlist,
        ["api.anthropic.com", "registry.npmjs.org", "supervise"]
    );
    assert!(!policy.seed_phrase_detection);
    assert_eq!(policy.passthrough, ["api.anthropic.com"]);
    assert_eq!(policy.internal_cidr.as_deref(), Some("100.96.1.0/24"));
    assert_eq!(policy.listen, "0.0.0.0:8888".parse().unwrap());
    let network = policy.network;
    assert_eq!(network.internal.as_deref(), Some("dev-agent-internal"));
    assert_eq!(network.egress.as_deref(), Some("dev-agent-egress"));
    assert_eq!(network.hosts, [("supervise".into(), ip("100.96.1.2"))]);
    assert_eq!(network.address, Some((ip("10.0.2.15"), 24)));
    assert_eq!(network.gateway, Some(ip("10.0.2.2")));
    assert_eq!(network.dns, [ip("10.0.2.3")]);
    assert_eq!(policy.supervisor.grace, Duration::from_secs(8));
    assert_eq!(policy.supervisor.drain, Duration::ZERO);
    assert_eq!(policy.supervisor.probe, Duration::from_secs(5));
}

#[test]
fn has_a_default_for_all_but_slug_and_bottle() {
    let policy = read("slug: a\nbottle: {}\n").policy;
    assert_eq!(policy.allowlist, [""; 0]);
    assert!(policy.seed_phrase_detection);
    assert_eq!(policy.internal_cidr, None);
    assert_eq!(policy.tuning, policy::Tuning::default());
    assert_eq!(policy.listen, "0.0.0.0:8888".parse().unwrap());
    assert_eq!(policy.network, policy::Network::default());
    assert_eq!(policy.supervisor.grace, Duration::from_secs(8));
    assert_eq!(policy.supervisor.drain, Duration::ZERO);
    assert_eq!(policy.supervisor.probe, Duration::from_secs(5));
}

#[test]
fn passes_through_an_apex_with_its_wildcard_and_each_host_once() {
    let policy = read(&format!(
        "{ROUTES}    - host: '*.Wild.example'\n    - host: b.example\n    - host: 10.0.0.1\npipelock:\n  passthrough: ['*.WILD.example.', wild.example, 10.0.0.1, x.wild.example, x.wild.example]\n  scan_limit_mib: 20\n"
    ))
    .policy;
    assert_eq!(
        policy.passthrough,
        [
            "*.wild.example",
            "10.0.0.1",
            "api.anthropic.com",
            "wild.example",
            "x.wild.example"
        ]
    );
    assert_eq!(
        policy.not_scanned(),
        ["*.wild.example", "10.0.0.1", "x.wild.example"],
        "the model's host is not allowed here, and the apex goes with its wildcard"
    );
    assert_eq!(policy.tuning.scan_limit_mib, Some(20));
}

#[test]
fn reads_a_list_of_values_up_to_its_bound() {
    let listed = |count: usize| {
        format!(
            "{ROUTES}    - host: a.example\npipelock: {{passthrough: [{}]}}\n",
            "a.example,".repeat(count)
        )
    };
    assert_eq!(read(&listed(4096)).policy.passthrough.len(), 2);
    assert_eq!(
        refused(listed(9000)),
        "manifest.yaml:6: pipelock.passthrough[4096]: a list may have 4096 entries, and here are more"
    );
}

#[test]
fn lowers_hosts_and_takes_one_final_dot_off() {
    let policy = read(&format!(
        "{ROUTES}    - host: API.Anthropic.COM.\n    - Host: '*.Example.'\n"
    ))
    .policy;
    assert_eq!(policy.allowlist, ["*.example", "api.anthropic.com"]);
    assert!(
        !policy.seed_phrase_detection,
        "the rule looks at normalized hosts"
    );
}

#[test]
fn takes_host_in_both_spellings_when_they_agree() {
    let policy = read(&format!(
        "{ROUTES}    - host: a.example\n      Host: A.example\n"
    ))
    .policy;
    assert_eq!(policy.allowlist, ["a.example"]);
}

#[test]
fn warns_of_what_is_not_ours_below_bottle_and_refuses_it_when_strict() {
    let manifest = "slug: a\nbottle:\n  env: {A: 1}\n  git: []\n  egress:\n    routes:\n    - host: a.example\n      hots: b.example\n";
    let warnings = "manifest.yaml:3: bottle.env: not a key that is read here\n\
         manifest.yaml:8: bottle.egress.routes[0].hots: not a key that is read here\n\
         hint: did you mean \"host\"? that is there already";
    assert_eq!(shown(&read(manifest).warnings), warnings);
    assert_eq!(refused(manifest), warnings);
}

#[test]
fn warns_of_a_route_without_a_host() {
    let judgement = read(&format!("{ROUTES}    - {{}}\n"));
    assert_eq!(
        shown(&judgement.warnings),
        "manifest.yaml:5: bottle.egress.routes[0]: the route has no host, and is passed over"
    );
}

#[test]
fn warns_of_a_privileged_port() {
    let judgement = read("slug: a\nbottle: {}\npipelock: {listen: '127.0.0.1:443'}\n");
    assert_eq!(
        shown(&judgement.warnings),
        "manifest.yaml:3: pipelock.listen: 443 is a privileged port: the daemon, which is not root, may be refused it\n\
         hint: write a port from 1024 on"
    );
}

#[test]
fn reports_all_problems_at_once_in_the_order_of_the_file() {
    assert_eq!(
        refused(
            "version: 3\nbottle:\n  egress:\n    routes:\n    - host: a b\n    - host: c:1\nnetwork:\n  internal_cidr: 10.0.0.1\nextra: 1\n"
        ),
        "manifest.yaml: slug: required, and not there\n\
         hint: write \"slug: NAME\", the agent's name\n\
         manifest.yaml:1: version: \"3\" is not a version this program reads\n\
         hint: write 1, without quotes\n\
         manifest.yaml:5: bottle.egress.routes[0].host: \"a b\" is not a host name: it has a space\n\
         manifest.yaml:6: bottle.egress.routes[1].host: \"c:1\" is not a host name: it has a port\n\
         hint: write \"c\"\n\
         manifest.yaml:8: network.internal_cidr: \"10.0.0.1\" is not a CIDR: it has no prefix length\n\
         hint: write \"10.0.0.1/32\"\n\
         manifest.yaml:9: extra: unknown key"
    );
}

#[test]
fn reports_problems_before_a_syntax_error_with_it() {
    assert_eq!(
        refused("slug: A_\nbottle: {supervise: yes}\n]\n"),
        "manifest.yaml:1: slug: \"A_\" is not a slug: it takes lower-case letters, digits and hyphens between them, at most 63\n\
         hint: write \"a\"\n\
         manifest.yaml:2: bottle.supervise: \"yes\" is neither true nor false\n\
         hint: write true, without quotes\n\
         manifest.yaml:3: not YAML: misplaced bracket"
    );
}

#[test]
fn reports_the_first_hundred_problems_and_counts_the_rest() {
    let manifest = format!("{ROUTES}{}", "    - host: a b\n".repeat(150));
    let problems = policy::read(manifest.as_bytes(), false, 0)
        .unwrap_err()
        .problems;
    assert_eq!(problems.len(), MAX_REPORTED + 1);
    assert_eq!(problems[99].line, Some(104));
    assert_eq!(problems[100].display("m").to_string(), "m: … and 50 more");
}

#[test]
fn gives_lines_and_columns_in_json_behind_blanks_and_comments() {
    for (manifest, line, column) in [
        ("{\"slug\": \"A\", \"bottle\": {}}", 1, 10),
        ("  {\"slug\": \"A\", \"bottle\": {}}", 1, 12),
        ("# c\n\n {\"slug\": \"A\", \"bottle\": {}}", 3, 11),
        ("{\n  \"slug\": \"A\", \"bottle\": {}}", 2, 11),
        ("slug: A\r\nbottle: {}\r\n", 1, 7),
        ("\u{feff}bottle: {}\r\nslug: A", 2, 7),
        ("--- {\"slug\": \"A\", \"bottle\": {}}", 1, 14),
    ] {
        let problems = policy::read(manifest.as_bytes(), true, 0)
            .unwrap_err()
            .problems;
        assert_eq!(problems.len(), 1, "{manifest}");
        assert_eq!(problems[0].line, Some(line), "{manifest}");
        assert_eq!(problems[0].column, Some(column), "{manifest}");
    }
}

#[test]
fn reads_a_byte_order_mark_and_crlf() {
    let policy = read("\u{feff}slug: a\r\nbottle:\r\n  supervise: true\r\n").policy;
    assert_eq!(policy.allowlist, ["supervise"]);
}

#[test]
fn reads_an_anchor_without_an_alias() {
    assert_eq!(read("slug: &s a\nbottle: &b {}\n").policy.slug, "a");
}

#[test]
fn passes_over_aliases_and_tags_in_what_is_not_ours() {
    let manifest = "slug: a\nbottle:\n  git: [&x !t {a: 1}, *x]\n";
    assert_eq!(read(manifest).policy.slug, "a");
}

#[test]
fn names_the_byte_that_is_not_utf8() {
    assert_eq!(
        refused(b"slug: a\nbottle: {\xff}\n"),
        "manifest.yaml:2: byte 0xff at offset 17 is not UTF-8"
    );
    assert_eq!(
        refused(b"\xff\xfes\0l\0"),
        "manifest.yaml:1: byte 0xff at offset 0 is not UTF-8\nhint: save the file as UTF-8"
    );
}

#[test]
fn names_the_control_character_that_no_text_has() {
    assert_eq!(
        refused(b"slug: a\nbottle: \0{}\n"),
        "manifest.yaml:2: control character 0x00 at offset 16; only tab, line feed and carriage return are allowed"
    );
}

#[test]
fn refuses_more_bytes_than_the_limit_and_reads_as_many() {
    let mut manifest = "slug: a\nbottle:\n  git:\n".to_owned();
    let entry = format!("  - {}\n", "x".repeat(1000));
    while manifest.len() + entry.len() <= MAX_BYTES {
        manifest.push_str(&entry);
    }
    manifest.push_str(&"#".repeat(MAX_BYTES - manifest.len()));
    assert_eq!(manifest.len(), MAX_BYTES);
    assert_eq!(read(&manifest).policy.slug, "a");
    assert_eq!(
        refused(vec![b'#'; MAX_BYTES + 1]),
        "manifest.yaml: 16777217 bytes are more than the 16777216 a manifest may have"
    );
}

#[test]
fn refuses_what_would_be_lost_behind_a_comment_without_end() {
    // The parser is given no more than its limit; what it makes of a part must
    // never pass for the whole.
    let manifest = format!(
        "slug: a\nbottle: {{}}\n#{}\nextra: 1\n",
        "x".repeat(300_000)
    );
    assert_eq!(
        refused(manifest),
        "manifest.yaml:2: a value, comment or list entry after this is longer than 262144 characters"
    );
}

#[test]
fn nesting_of_any_depth_overflows_no_stack() {
    // As small a stack as a thread gets: recursion would end the process.
    let judge = || {
        for unit in ["[", "{", "- ", "? ", "[{a: ", "{a: [", "\"", "!", "&a "] {
            for head in ["", "slug: a\nbottle:\n  git: ", ROUTES] {
                let manifest = head.to_owned() + &unit.repeat((MAX_BYTES - 64) / unit.len());
                assert!(
                    policy::read(manifest.as_bytes(), false, 0).is_err(),
                    "{unit}"
                );
            }
        }
    };
    std::thread::Builder::new()
        .stack_size(256 * 1024)
        .spawn(judge)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn reads_sixteen_mebibytes_of_hosts_in_time_that_follows_their_number() {
    let manifest = |bytes: usize| {
        let mut text = ROUTES.to_owned();
        for n in 0.. {
            if text.len() + 64 > bytes {
                break;
            }
            writeln!(text, "    - host: host-{n:07}.example").unwrap();
        }
        text
    };
    let time = |bytes: usize| {
        let text = manifest(bytes);
        let start = Instant::now();
        let hosts = read(&text).policy.allowlist.len();
        assert!(hosts * 40 > bytes, "{hosts} of {bytes} bytes");
        start.elapsed()
    };
    let (small, large) = (time(MAX_BYTES / 16), time(MAX_BYTES));
    // Sixteen times the bytes; quadratic would be 256 times the time.
    assert!(large < small * 80, "{small:?}, {large:?}");
}

#[test]
fn unknown_keys_without_number_cost_no_more_than_their_bytes() {
    let manifest = format!("slug: a\nbottle: {{}}\n{}", "xy: 1\n".repeat(1_000_000));
    let problems = policy::read(manifest.as_bytes(), false, 0)
        .unwrap_err()
        .problems;
    assert_eq!(problems.len(), MAX_REPORTED + 1);
    assert_eq!(
        problems[100].display("m").to_string(),
        "m: … and 999900 more"
    );
}

/// The blocks of YAML in a document.
fn yaml_blocks(document: &str) -> Vec<&str> {
    let blocks = document.split("```yaml\n").skip(1);
    blocks.filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_manifests_that_people_copy_are_valid_and_scan_nothing_that_cannot_bear_it() {
    let readme = include_str!("../../README.md");
    let smallest = yaml_blocks(readme)[0];
    let mut manifests = vec![
        smallest.to_owned(),
        include_str!("../../image/example/manifest.yaml").to_owned(),
        include_str!("../../image/kubernetes/bottle/manifest.yaml").to_owned(),
    ];
    let clients = yaml_blocks(include_str!("../../docs/clients.md"));
    assert!(clients.len() >= 9, "{clients:?}");
    manifests.extend(clients.iter().map(|block| format!("slug: a\n{block}")));
    for manifest in manifests {
        let judged = policy::read(manifest.as_bytes(), true, 0);
        let judgement = judged.unwrap_or_else(|refused| {
            unreachable!("refused:\n{}\n{manifest}", shown(&refused.problems));
        });
        assert_eq!(shown(&judgement.warnings), "", "{manifest}");
        let notes = shown(&judgement.notes);
        // What more github.com would need is for its reader to decide.
        let companions = notes
            .lines()
            .filter(|line| line.contains("is allowed without"));
        assert!(
            companions
                .clone()
                .all(|line| line.contains("\"github.com\"")),
            "{notes}\n{manifest}"
        );
        assert_eq!(
            companions.count() * 2,
            notes.lines().count(),
            "{notes}\n{manifest}"
        );
    }
}
