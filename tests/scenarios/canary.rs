//! H5: what is secret in the settings is in nothing that the daemon writes or answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use tidemill_tests::sandbox::repository;
use tidemill_tests::{Authority, Call, Daemon, LONG, Sandbox, Service, eventually};

use crate::rig::{manifest, put_beside};

/// The keys of settings that hold, or name a file that holds, what is secret. What a test below gives a canary is listed here.
const KEYS: [&str; 18] = [
    "kafka.security.password",
    "kafka.security.password-file",
    "kafka.security.key-file",
    "kafka.security.key-password",
    "kafka.security.key-password-file",
    "kafka.security.oauth.client-secret",
    "kafka.security.oauth.client-secret-file",
    "kafka.security.oauth.token-file",
    "http.tls.key-file",
    "http.jwt.secret",
    "http.jwt.secret-file",
    "admin.token-file",
    "admin.tls.key-file",
    "metrics.token-file",
    "metrics.tls.key-file",
    "traces.secret-headers",
    "destination.secret-headers",
    "handler.NAME.secrets",
];

/// Settings and variables, of which each holds some of the canaries.
struct Case {
    toml: String,
    variables: Vec<(&'static str, String)>,
}

/// Nobody would find it by chance.
fn canary(name: &str) -> String {
    format!("canary-of-{name}-0123456789-0123456789")
}

/// Everything below a folder.
fn contents(folder: &Path, into: &mut Vec<u8>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => contents(&path, into),
            false => into.extend(fs::read(&path).unwrap_or_default()),
        }
    }
}

/// Calls the daemon as people and machines would, and gives back everything that it has said, and written into its data folder.
fn everything(sandbox: &Sandbox, daemon: &mut Daemon, case: &Case, admin: &str, scrapes: &str) -> Vec<u8> {
    let mut all = Vec::new();
    let with_variables = |arguments: &[&str]| {
        let mut command = sandbox.command(arguments);
        command.envs(case.variables.iter().map(|(name, value)| (*name, value.as_str())));
        command.output().unwrap()
    };
    for arguments in [
        &["check"][..],
        &["inspect", "hostile"],
        &["versions", "hostile"],
        &["handlers"],
        &["token", "--user", "7"],
        &["records", "show", "hostile-in/0@0"],
        &["--help"],
    ] {
        let output = with_variables(arguments);
        all.extend(output.stdout);
        all.extend(output.stderr);
    }
    let said = |call: &Call| call.send().text().into_bytes();
    let http = |path: &str| Call::new("GET", &format!("{}{path}", daemon.url().replace("https", "http")));
    if daemon.url().starts_with("http:") {
        for path in ["/hostile/seen", "/livez", "/nowhere"] {
            all.extend(said(&http(path)));
        }
        all.extend(said(&http("/hostile/seen").token("not.a.token")));
    }
    let plain = |sign: &str| fs::read_to_string(sandbox.data().join(sign)).unwrap().starts_with("http:");
    if plain("admin.url") && plain("metrics.url") {
        for path in ["handlers", "handlers/hostile", "handlers/hostile/versions", "nothing"] {
            all.extend(said(&sandbox.admin_without_token("GET", path).token(admin)));
            all.extend(said(&sandbox.admin_without_token("GET", path).token("wrong")));
        }
        for path in ["/metrics", "/readyz"] {
            all.extend(said(&sandbox.monitor(path).token(scrapes)));
            all.extend(said(&sandbox.monitor(path)));
        }
    }
    all.extend(fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap());
    daemon.terminate();
    all.extend(daemon.log().into_bytes());
    contents(&sandbox.data(), &mut all);
    all
}

#[test]
fn h5_no_secret_of_the_settings_is_written_or_answered() {
    let authority = Authority::new();
    ["localhost", "tidemill"].into_iter().for_each(|name| authority.issue(name));
    authority.lock("tidemill.key", &canary("key-password"), "locked.key");
    let folder = authority.path("secrets");
    fs::create_dir(&folder).unwrap();
    let file = |name: &str| {
        let path = folder.join(name);
        fs::write(&path, format!("{}\n", canary(name))).unwrap();
        path.display().to_string()
    };
    let path = |name: &str| authority.path(name).display().to_string();
    let mut canaries: BTreeSet<String> = [
        "password",
        "password-file",
        "key-password",
        "client-secret",
        "client-secret-file",
        "oauth-token",
        "jwt-secret",
        "jwt-secret-file",
        "admin",
        "metrics",
        "header",
        "traces",
        "api-key",
    ]
    .into_iter()
    .map(canary)
    .collect();
    for key in ["localhost.key", "tidemill.key", "locked.key"] {
        let pem = fs::read_to_string(authority.path(key)).unwrap();
        canaries.extend(pem.lines().filter(|line| !line.starts_with('-') && line.len() > 40).map(str::to_owned));
    }
    // Issuers that repeat what they were sent.
    let issuers = ["client-secret", "client-secret-file"].map(|name| {
        Service::answering(move |_| {
            let said = format!("{{\"error\": \"no\", \"error_description\": \"not {}\"}}", canary(name));
            ("400 Bad Request".into(), said)
        })
    });
    let own = format!("certificate-file = \"{}\"\nkey-file = \"{}\"\n", path("tidemill.pem"), path("locked.key"));
    let sasl = "protocol = \"SASL_SSL\"\nmechanism = \"PLAIN\"\nusername = \"u\"\n";
    let bearer = "protocol = \"SASL_SSL\"\nmechanism = \"OAUTHBEARER\"\n[kafka.security.oauth]\n";
    let [asks, asks_too] =
        issuers.each_ref().map(|issuer| format!("token-url = \"{}/\"\nclient-id = \"i\"\n", issuer.url()));
    let tls = ["http", "admin", "metrics"].map(|of| {
        let (certificate, key) = (path("localhost.pem"), path("localhost.key"));
        format!("[{of}.tls]\ncertificate-file = \"{certificate}\"\nkey-file = \"{key}\"\n")
    });
    let tls = tls.concat();
    let cases = [
        Case {
            toml: format!("{sasl}{own}"),
            variables: vec![
                ("TIDEMILL_KAFKA_SECURITY_PASSWORD", canary("password")),
                ("TIDEMILL_KAFKA_SECURITY_KEY_PASSWORD", canary("key-password")),
                ("TIDEMILL_HTTP_JWT_SECRET", canary("jwt-secret")),
            ],
        },
        Case {
            toml: format!(
                "{sasl}{own}password-file = \"{}\"\nkey-password-file = \"{}\"\n{tls}[http.jwt]\nsecret-file = \"{}\"\n",
                file("password-file"),
                file("key-password"),
                file("jwt-secret-file")
            ),
            variables: Vec::new(),
        },
        Case {
            toml: format!("{bearer}{asks}"),
            variables: vec![("TIDEMILL_KAFKA_SECURITY_OAUTH_CLIENT_SECRET", canary("client-secret"))],
        },
        Case {
            toml: format!("{bearer}{asks_too}client-secret-file = \"{}\"\n", file("client-secret-file")),
            variables: Vec::new(),
        },
        Case { toml: format!("{bearer}token-file = \"{}\"\n", file("oauth-token")), variables: Vec::new() },
    ];
    for case in cases {
        let sandbox = Sandbox::new();
        put_beside(
            &sandbox,
            "hostile.toml",
            &manifest("hostile", &[("start = ", "secrets = [\"api-key\"]\nstart = ")]),
        );
        sandbox.deploy("hostile");
        sandbox.write_toml(&format!(
            "log = {{ level = \"info,tidemill=trace,hyper=trace,hyper_util=trace,reqwest=trace,rustls=trace\" }}\n[kafka]\nbootstrap = \"127.0.0.1:1\"\n[kafka.security]\n{}\
             [admin]\ntoken-file = \"{}\"\n[metrics]\ntoken-file = \"{}\"\n\
             [[destination]]\ntopic = \"hostile-out\"\ntype = \"http\"\nurl = \"http://127.0.0.1:1/\"\n\
             secret-headers = {{ authorization = {{ env = \"CANARY_HEADER\" }} }}\n\
             [traces]\nendpoint = \"http://127.0.0.1:1\"\nsecret-headers = {{ authorization = {{ env = \"CANARY_TRACES\" }} }}\n\
             [handler.hostile.secrets]\napi-key = {{ file = \"{}\" }}\n",
            case.toml,
            file("admin"),
            file("metrics"),
            file("api-key"),
        ));
        let case = Case {
            variables: [case.variables, vec![("CANARY_HEADER", canary("header")), ("CANARY_TRACES", canary("traces"))]]
                .concat(),
            ..case
        };
        let mut daemon = Daemon::start_with(&sandbox, |command| {
            command.envs(case.variables.iter().map(|(name, value)| (*name, value.as_str())));
        });
        eventually(LONG, "the handler is live", || {
            let mut command = sandbox.command(&["handlers"]);
            command.envs(case.variables.iter().map(|(name, value)| (*name, value.as_str())));
            String::from_utf8(command.output().unwrap().stdout).unwrap().contains("live")
        });
        let all = everything(&sandbox, &mut daemon, &case, &canary("admin"), &canary("metrics"));
        let all = String::from_utf8_lossy(&all);
        // Were nothing looked at, nothing would be found.
        let plain = !case.toml.contains("[admin.tls]");
        for seen in ["/hostile/seen", "TRACE", "api-key"].into_iter().chain(plain.then_some("tidemill_ready")) {
            assert!(all.contains(seen), "{seen} is not in what was looked at");
        }
        for canary in &canaries {
            let told = all.lines().find(|line| line.contains(canary.as_str()));
            assert!(told.is_none(), "{canary} is told: {told:?}");
        }
    }
}

#[test]
fn h5_a_secret_in_the_wrong_place_is_not_repeated() {
    let canary = canary("wrong");
    for toml in [
        format!("[kafka.security]\npassword = {canary}\n"),
        format!("[kafka.security]\npassword = \"{canary}\n"),
        format!("[kafka.security]\npassword = [\"{canary}\"]\n"),
        format!("[kafka.security]\nprotocol = \"SSL\"\nkey-password = {{ file = \"{canary}\" }}\n"),
        format!("[kafka.security]\npassword = \"{canary}\"\npassword-file = \"x\"\n"),
        format!("[kafka.security]\noauth = \"{canary}\"\n"),
        format!("[kafka.security.oauth]\nclient-secret = \"{canary}\"\n"),
        format!("[http]\njwt = \"{canary}\"\n"),
        "[http.jwt]\nsecret = \"canary-of-wrong\"\n".to_owned(),
        format!("[http.jwt]\nsecret = \"{canary}\"\nsecret-file = \"x\"\n"),
        format!("[handler.hostile.secrets]\napi-key = \"{canary}\"\n"),
        format!("[handler.hostile]\nsecrets = \"{canary}\"\n"),
        format!(
            "[[destination]]\ntopic = \"t\"\ntype = \"http\"\nurl = \"https://a.example/\"\nsecret-headers = {{ authorization = \"{canary}\" }}\n"
        ),
        format!("[[destination]]\ntopic = \"t\"\ntype = \"http\"\nurl = \"https://u:{canary}@a.example/\"\n"),
        format!(
            "[kafka.security]\nprotocol = \"SASL_SSL\"\nmechanism = \"OAUTHBEARER\"\n[kafka.security.oauth]\ntoken-url = \"https://u:{canary}@a.example/\"\n"
        ),
        format!("[http.jwt]\njwks-url = \"https://u:{canary}@a.example/\"\n"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.write_toml(&toml);
        let output = sandbox.tidemill(&["check"]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!output.status.success() && said.contains("error: "), "{toml}: {said}");
        assert!(!said.contains("canary-of-wrong"), "{toml}: {said}");
    }
    for variable in ["TIDEMILL_KAFKA_SECURITY_PASSWRD", "TIDEMILL_HTTP_JWT_SECRET", "TIDEMILL_KAFKA_SECURITY_PASSWORD"]
    {
        let sandbox = Sandbox::new();
        let output = sandbox.command(&["check"]).env(variable, "canary-of-wrong").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(variable) || said.contains("kafka.security.password"), "{said}");
        assert!(!said.contains("canary-of-wrong"), "{said}");
    }
}

/// Keys that sound secret are known to the tests above.
#[test]
fn h5_each_secret_of_the_settings_has_a_canary() {
    let text = fs::read_to_string(repository().join("docs/settings.md")).unwrap();
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in text.split("\n## `handler.toml`").next().unwrap().lines() {
        if let Some(title) = line.strip_prefix("### ") {
            section = title.trim_matches(['`', '[', ']']).to_owned();
        }
        let Some(key) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else { continue };
        let plain = key.strip_suffix("-file").unwrap_or(key);
        if ["secret", "password", "token"].iter().any(|word| plain.ends_with(word)) || key == "key-file" {
            found.insert(format!("{section}.{key}"));
        }
    }
    let known: BTreeSet<String> = KEYS.iter().map(|key| (*key).to_owned()).collect();
    let unknown: Vec<&String> = found.difference(&known).collect();
    assert!(found.len() == 15 && unknown.is_empty(), "{} of {found:?} have no canary: {unknown:?}", unknown.len());
}
