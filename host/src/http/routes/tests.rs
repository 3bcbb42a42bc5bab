//! The table of routes: what is found, and what is refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
use proptest::prelude::*;

use super::*;

fn routes(list: &[&str]) -> Vec<Route> {
    let split = |line: &&str| {
        let (method, path) = line.split_once(' ').unwrap();
        Route { method: method.to_owned(), path: path.to_owned(), ..Route::default() }
    };
    list.iter().map(split).collect()
}

fn targets(handler: &str, list: &[&str]) -> Vec<Target> {
    let send: Dispatch = Arc::new(|_| oneshot::channel().1);
    let handler: Arc<str> = handler.into();
    let target =
        |route| Target { route, rates: Rates::default(), handler: Arc::clone(&handler), send: Arc::clone(&send) };
    routes(list).into_iter().map(target).collect()
}

fn table(handlers: &[(&str, &[&str])]) -> Routes {
    let table = Routes::default();
    for (name, list) in handlers {
        table.set(name, targets(name, list)).unwrap();
    }
    table
}

/// `handler path name=value ...`, or what is missing.
fn find(table: &Routes, method: &str, path: &str) -> String {
    match table.find(method, path) {
        Ok(Found { target, params, .. }) => {
            let params: String = params.iter().map(|(name, value)| format!(" {name}={value}")).collect();
            format!("{} {} {}{params}", target.handler, target.route.method, target.route.path)
        }
        Err(Missing::Path) => "404".to_owned(),
        Err(Missing::Method { allow }) => format!("405 {allow}"),
        Err(Missing::Encoding { name }) => format!("400 {name}"),
    }
}

#[test]
fn a_request_finds_its_route() {
    let table = table(&[
        ("order", &["POST /api/orders", "GET /api/orders", "GET /api/orders/{id}", "GET /o/{id}/items/{item}"]),
        ("admin", &["DELETE /api/orders/{number}", "GET /api/orders/mine", "HEAD /h", "GET /h", "GET /f/{*rest}"]),
    ]);
    for (method, path, expected) in [
        ("POST", "/api/orders", "order POST /api/orders"),
        ("GET", "/api/orders/17", "order GET /api/orders/{id} id=17"),
        ("GET", "/api/orders/mine", "admin GET /api/orders/mine"),
        ("DELETE", "/api/orders/17", "admin DELETE /api/orders/{number} number=17"),
        ("GET", "/o/1/items/2", "order GET /o/{id}/items/{item} id=1 item=2"),
        ("GET", "/f/a/b%20c", "admin GET /f/{*rest} rest=a/b c"),
        ("GET", "/api/orders/%EC%A3%BC%2f1", "order GET /api/orders/{id} id=주/1"),
        ("GET", "/api/orders/%C3%28", "400 id"),
        ("GET", "/api/orders/100%", "400 id"),
        ("GET", "/api/orders/%4", "400 id"),
        ("GET", "/api/orders/%4g", "400 id"),
        ("GET", "/api/orders/%%41", "400 id"),
        ("HEAD", "/api/orders/17", "order GET /api/orders/{id} id=17"),
        ("HEAD", "/h", "admin HEAD /h"),
        ("PUT", "/api/orders", "405 GET, HEAD, POST"),
        ("HEAD", "/api/none", "404"),
        ("POST", "/api/orders/17", "405 DELETE, GET, HEAD"),
        ("GET", "/api/orders/", "404"),
        ("GET", "/", "404"),
        ("OPTIONS", "*", "404"),
        ("CONNECT", "", "404"),
    ] {
        assert_eq!(find(&table, method, path), expected, "{method} {path}");
    }
}

#[test]
fn head_without_a_get_route_is_not_allowed() {
    assert_eq!(find(&table(&[("a", &["POST /x"])]), "HEAD", "/x"), "405 POST");
}

#[test]
fn two_handlers_cannot_have_one_path() {
    let table = table(&[("order", &["GET /api/orders/{id}", "POST /api/orders"])]);
    let error = table.set("thief", targets("thief", &["GET /t", "GET /api/orders/{number}"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "route GET /api/orders/{number} of handler `thief` overlaps GET /api/orders/{id} of handler `order`: \
         change one of the two paths, or remove handler `order`"
    );
    assert_eq!(find(&table, "GET", "/t"), "404", "nothing of a refused set goes live");
    assert_eq!(table.check("thief", &routes(&["GET /api/orders/{number}"])), Err(error));
    assert_eq!(table.check("thief", &routes(&["PUT /api/orders/{number}"])), Ok(()));
    let overlap = table.check("x", &routes(&["GET /api/orders/{*rest}"])).unwrap_err();
    assert!(matches!(overlap, Conflict::Taken { ref other, .. } if other == "order"), "{overlap}");
    // `matchit` itself would take these two in one order only.
    for (first, second) in [("/s/a{x}", "/s/{x}/a"), ("/s/{x}/a", "/s/a{x}")] {
        let table = self::table(&[("one", &[&format!("GET {first}")])]);
        assert!(table.check("two", &routes(&[&format!("GET {second}")])).is_err());
    }
    let twice = table.check("x", &routes(&["GET /x/{a}", "GET /x/{b}"])).unwrap_err();
    assert!(matches!(twice, Conflict::Taken { ref other, .. } if other == "x"), "{twice}");
}

#[test]
fn a_set_replaces_all_routes_of_its_handler() {
    let table = table(&[("order", &["GET /old", "GET /both"]), ("other", &["GET /other"])]);
    table.set("order", targets("order", &["GET /both", "GET /new"])).unwrap();
    assert_eq!(find(&table, "GET", "/old"), "404");
    assert_eq!(find(&table, "GET", "/new"), "order GET /new");
    assert_eq!(find(&table, "GET", "/both"), "order GET /both");
    table.set("order", targets("order", &["GET /other"])).unwrap_err();
    assert_eq!(find(&table, "GET", "/new"), "order GET /new", "a refused set leaves the old routes");
    table.remove("order");
    assert_eq!(find(&table, "GET", "/new"), "404");
    assert_eq!(find(&table, "GET", "/other"), "other GET /other");
    table.set("third", targets("third", &["GET /new"])).unwrap();
    assert_eq!(find(&table, "GET", "/new"), "third GET /new");
}

#[test]
fn the_hosts_paths_are_refused_and_never_matched() {
    let table = table(&[("all", &["GET /{*rest}", "GET /administration"])]);
    for path in ["/admin", "/admin/", "/admin/x", "/metrics", "/livez", "/readyz", "/readyz/{x}"] {
        let error = table.check("x", &routes(&[&format!("GET {path}")])).unwrap_err();
        assert!(matches!(error, Conflict::Reserved { .. }), "{path}: {error}");
        assert_eq!(find(&table, "GET", path), "404");
    }
    assert_eq!(find(&table, "GET", "/administration"), "all GET /administration");
}

#[test]
fn a_bad_pattern_is_refused_with_the_reason() {
    for (route, reason) in [
        ("get /x", "capital letters"),
        (" /x", "capital letters"),
        (&format!("GET {}", "/{p}".repeat(26)), "25 parameters"),
        ("GET x", "starts with `/`"),
        ("GET /주문", "percent-encoded"),
        ("GET /a?b=c", "percent-encoded"),
        ("GET /{a}{b}", "only one parameter"),
        ("GET /{*a}/b", "at the end"),
        ("GET /{a", "`{name}`"),
        ("GET /{}", "`{name}`"),
    ] {
        let error = Routes::default().check("x", &routes(&[route])).unwrap_err();
        assert!(matches!(error, Conflict::Pattern { .. }), "{route}: {error}");
        assert!(error.to_string().contains(reason), "{route}: {error}");
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = || proptest::sample::select(vec!["a", "ab", "{x}", "{y}", "a{x}", "{x}a", "{x}ba", "a{x}b"]);
    let last = proptest::sample::select(vec!["", "/", "/a", "/{x}", "/{*rest}", "/{x}b"]);
    (proptest::collection::vec(segment(), 0..3), last)
        .prop_map(|(segments, last)| format!("/{}{last}", segments.join("/")))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    // `matchit` does not promise it: what was accepted one after the other stands in any order, and in part.
    #[test]
    fn accepted_routes_stand_in_any_order(list in proptest::collection::vec(pattern(), 2..8), turn in 0usize..8) {
        let send: Dispatch = Arc::new(|_| oneshot::channel().1);
        let table = Routes::default();
        let mut accepted = vec![];
        for (n, path) in list.iter().enumerate() {
            let name = format!("h{n}");
            let route = Route { method: "GET".to_owned(), path: path.clone(), ..Route::default() };
            let target = Target { route, rates: Rates::default(), handler: name.as_str().into(), send: Arc::clone(&send) };
            match table.set(&name, vec![target.clone()]) {
                Ok(()) => accepted.push(target),
                Err(Conflict::Taken { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        let turn = turn % accepted.len();
        accepted.rotate_left(turn);
        for reversed in [false, true] {
            if reversed {
                accepted.reverse();
            }
            let again = Routes::default();
            for target in &accepted {
                prop_assert_eq!(again.set(&target.handler, vec![target.clone()]), Ok(()));
            }
        }
        let gone = accepted.pop().unwrap();
        table.remove(&gone.handler);
        let left = table.live().handlers.len();
        prop_assert_eq!(left, accepted.len());
    }
}
