//! The series, as HTTP tells them.

use serde_json::json;

use super::service::Service;

#[tokio::test]
async fn what_happened_is_counted_in_steps_of_time() {
    let service = Service::start().await;

    let mail =
        json!({"from": "a@example.org", "to": ["b@example.org", "c@example.org"], "text": "t"});
    let id = service.accept(&mail).await;
    service.dispatcher.wait(id.parse().unwrap()).await.unwrap();

    for query in [
        "",
        "?from=10m",
        "?from=10m&step=1m",
        "?from=10m&relay=capture",
    ] {
        let series = service.call("GET", &format!("/v1/series{query}")).await;
        assert_eq!(series.status, 200, "{}", series.text());
        let series = series.value();
        let points = series["points"].as_array().unwrap();
        let step = series["step"].as_u64().unwrap();
        assert!(
            (10..=61).contains(&(600 / step)) || query.is_empty(),
            "{query}: {step}"
        );
        let sum = |of: &str| -> u64 { points.iter().filter_map(|p| p[of].as_u64()).sum() };
        let accepted = u64::from(!query.contains("relay"));
        assert_eq!(
            (
                sum("accepted"),
                sum("delivered"),
                sum("dead"),
                sum("deferred")
            ),
            (accepted, 2, 0, 0),
            "{query}: {series}"
        );
        let busy = points.iter().find(|point| point["delivered"] == 2).unwrap();
        assert!(busy["p50"].is_number() && busy["p99"].is_number(), "{busy}");
        assert_eq!(points.last().unwrap()["backlog"], 0);
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_said() {
    let service = Service::start().await;
    let bad = "/v1/series?from=yesterday&to=x&step=soon&by=relay";
    let problem = service.call("GET", bad).await.problem(422, "invalid");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 4, "{problem}");
    for bad in ["step=0", "from=1h&to=2h"] {
        let answer = service.call("GET", &format!("/v1/series?{bad}")).await;
        answer.problem(422, "invalid");
    }
    let unknown = service.call("GET", "/v1/series?relay=nowhere").await;
    unknown.problem(404, "not-found");
}
