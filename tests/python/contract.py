"""Drives a running hub as an outside client does: confluent-kafka and fastavro publish, clickhouse-connect reads back.

Usage: contract.py READY_FILE SCHEMA_FOLDER NOMENCLATURE_CODE. Exits 0 and prints "ok" when every field of every event came back
right. For each of the 16 events it sends a valid event, the same again, a correction, and an invalid one. Then it reads the
outcomes with confluent-kafka and kafka-python, the dead letters, asks the registry by Confluent's client, and uses ClickHouse as
planner does.
"""
import collections
import datetime as dt
import decimal
import hashlib
import io
import json
import pathlib
import struct
import sys
import time
import uuid

import clickhouse_connect
import fastavro
import kafka
from clickhouse_connect.driver.exceptions import DatabaseError
from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

TOPICS = {
    "ServiceOfferPublished": ("welfare.supply.offer", "serviceId"),
    "CapacityChanged": ("welfare.supply.capacity", "serviceId"),
    "ServiceRequested": ("welfare.demand.request", "pseudonym"),
    "NeedAssessed": ("welfare.demand.assessment", "pseudonym"),
    "WaitingListChanged": ("welfare.demand.waiting", "pseudonym"),
    "BenefitDecided": ("welfare.demand.benefit", "pseudonym"),
    "ServiceDelivered": ("welfare.demand.delivery", "pseudonym"),
    "TerritoryUpserted": ("welfare.ref.territory", "territoryCode"),
    "PopulationReported": ("welfare.ref.population", "territoryCode"),
    "DeprivationObserved": ("welfare.poverty.deprivation", "pseudonym"),
    "ActivitySessionHeld": ("welfare.school.session", "schoolCode"),
    "AttendanceRecorded": ("welfare.school.attendance", "student"),
    "IndicatorObserved": ("welfare.school.indicator", "schoolCode"),
    "FeedbackRecorded": ("welfare.school.feedback", "schoolCode"),
    "RecordRevoked": ("welfare.control.revocation", "revokedSource"),
    "SubjectErased": ("welfare.control.erasure", "pseudonym"),
}
SOURCE = "urn:welfare:F205:contract"
NOW = dt.datetime.now(dt.timezone.utc).replace(microsecond=123000)
OCCURRED = NOW - dt.timedelta(hours=2)
TODAY = OCCURRED.date()


def pseudonym(who):
    return hashlib.sha256(who.encode()).hexdigest()


def money(text):
    return decimal.Decimal(text)


def header(record, version=1):
    return {
        "eventId": str(uuid.uuid4()), "source": SOURCE, "sourceRecordId": record, "recordVersion": version,
        "occurredAt": OCCURRED, "recordedAt": NOW - dt.timedelta(hours=1), "orgCode": "F205", "legalBasis": "art6.1e",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


def subject(who):
    return {
        "pseudonym": pseudonym(who), "keyEpoch": 3, "householdPseudonym": pseudonym("household of " + who), "birthYear": 1984, "sex": "F",
        "citizenship": "NON_EU", "comuneCode": "015146", "iseeBand": "UP_9000",
    }


def events():
    """One valid event of each type, with awkward values on purpose: negative and small decimals, accents, nulls."""
    who = {"subject": subject("one")}
    instant = OCCURRED - dt.timedelta(days=1)
    yield "ServiceOfferPublished", {
        "serviceId": "nido-1", "name": "Nido «L'Aquilone» – città", "nomenclatureCode": NOMENCLATURE, "inpsCode": None, "userArea": "FAMILY_MINORS",
        "providerCode": "01199250158", "providerKind": "PUBLIC", "comuneCode": "015146", "atsCode": "ATS-MI", "status": "OPEN", "ageMin": 0,
        "ageMax": None, "validFrom": TODAY - dt.timedelta(days=400), "validTo": TODAY + dt.timedelta(days=300), "lat": 45.4642, "lon": None,
    }
    yield "CapacityChanged", {
        "serviceId": "nido-1", "unit": "PLACE", "profession": None, "authorised": money("60.000"), "funded": None, "operational": money("54.500"),
        "occupied": money("0.125"), "effectiveFrom": instant, "acceptsReferrals": "WAITLIST", "reason": "nuova sezione",
    }
    yield "ServiceRequested", {
        **who, "requestId": "REQ-1", "nomenclatureCode": NOMENCLATURE, "inpsCode": "A1.07", "serviceId": "nido-1", "userArea": "FAMILY_MINORS",
        "atsCode": "ATS-MI", "channel": "ONLINE", "urgent": True, "requestedAt": instant,
    }
    yield "NeedAssessed", {
        **who, "requestId": "REQ-1", "outcome": "PARTIAL", "meansTest": "ISEE", "tool": "SVAMA", "needLevel": 100, "refusalReason": None,
        "sensitive": b"\x00\x01\xfe\xff", "assessedAt": instant, "requestSource": None,
    }
    yield "WaitingListChanged", {
        **who, "requestId": "REQ-1", "serviceId": "nido-1", "change": "ENTER", "leaveReason": "UNKNOWN", "priority": -7, "changedAt": instant,
        "requestSource": "urn:welfare:F205:other",
    }
    yield "BenefitDecided", {
        **who, "requestId": "REQ-1", "benefitId": "BEN-1", "inpsCode": "A1.07", "nomenclatureCode": NOMENCLATURE, "serviceId": None,
        "userArea": "FAMILY_MINORS", "atsCode": "ATS-MI", "decision": "GRANTED", "character": "PERIODIC", "takenInCharge": False, "meansTest": "ISEE",
        "startDate": TODAY, "endDate": TODAY + dt.timedelta(days=200), "months": 12, "monthlyAmount": money("101.23"), "oneOffAmount": None,
        "hoursPerMonth": money("12.345"), "iseeThreshold": money("15000.00"), "endReason": None, "requestSource": None,
    }
    yield "ServiceDelivered", {
        **who, "benefitId": "BEN-1", "serviceId": None, "periodStart": TODAY - dt.timedelta(days=30), "periodEnd": TODAY, "unit": "MEAL",
        "unitsPlanned": money("22.000"), "unitsDelivered": money("19.500"), "amountTotal": money("101.23"), "quotaEnte": money("52.54"),
        "quotaUtente": money("21.71"), "quotaSsn": money("26.98"), "benefitSource": None,
    }
    yield "TerritoryUpserted", {
        "level": "COMUNE", "territoryCode": "013256", "name": "Uggiate con Ronago", "parentCode": "013", "atsCode": None, "cadastralCode": "M445",
        "validFrom": dt.date(2024, 1, 1), "validTo": None, "successorCodes": ["013199", "013228"],
    }
    yield "PopulationReported", {
        "territoryCode": "015146", "referenceDate": dt.date(2024, 1, 1), "sex": "M", "ageFrom": 0, "ageTo": 2, "residents": 15432,
    }
    yield "DeprivationObserved", {
        **who, "unitKind": "CHILD", "wave": "2024H1", "frameworkId": "EU-CD17", "frameworkVersion": 1, "indicatorCode": "CD05", "deprived": True,
        "missing": False, "sampleWeight": 1.5, "cluster": "MI-07", "observedAt": TODAY,
    }
    yield "ActivitySessionHeld", {
        "schoolCode": "MIMM123456", "activityId": "act-1", "sessionId": "ses-1", "activityKind": "STEM", "startsAt": instant, "minutes": 90,
        "seats": 20, "staff": 2, "cancelled": False,
    }
    yield "AttendanceRecorded", {
        "student": pseudonym("student"), "keyEpoch": 1, "schoolCode": "MIMM123456", "sessionId": "ses-1", "status": "LATE", "minutesPresent": 75,
    }
    yield "IndicatorObserved", {
        "frameworkId": "AS-1", "frameworkVersion": 1, "indicatorCode": "AS01", "level": "STUDENT", "schoolCode": "MIMM123456", "classCode": "2B",
        "student": pseudonym("student"), "arm": "TREATED", "period": "BASELINE", "schoolYear": "2024/25", "value": 0.85, "denominator": 20.0,
        "unit": "share", "observedAt": TODAY,
    }
    yield "FeedbackRecorded", {
        "direction": "FROM_STUDENT", "feedbackId": "fb-1", "inReplyTo": None, "schoolCode": "MIMM123456", "activityId": "act-1",
        "respondent": pseudonym("token"), "instrumentId": "q-1", "itemCode": "i-1", "likert": 5, "text": None, "actionTaken": None,
        "submittedAt": instant,
    }
    yield "RecordRevoked", {
        "revokedSource": SOURCE, "revokedSourceRecordId": "a record that is not there", "revokedUpToVersion": 3, "reason": "ENTERED_IN_ERROR",
        "revokedType": "BenefitDecided",
    }
    yield "SubjectErased", {
        "pseudonym": pseudonym("somebody else"), "keyEpoch": 3, "scope": "DEMAND", "ground": "ART17_REQUEST", "requestedAt": instant,
        "dueBy": instant + dt.timedelta(days=30),
    }


def snake(name):
    return "".join("_" + c.lower() if c.isupper() else c for c in name)


def flat(event):
    out = {}
    for name, value in event.items():
        out.update(flat(value)) if isinstance(value, dict) else out.update({snake(name): value})
    return out


def same(want, got):
    """Compares a value as fastavro took it with the same as clickhouse-connect gives it."""
    if isinstance(want, dt.datetime):
        got = got.replace(tzinfo=dt.timezone.utc) if got.tzinfo is None else got
        return want == got
    if isinstance(want, dt.date):
        return want == (got.date() if isinstance(got, dt.datetime) else got)
    if isinstance(got, uuid.UUID):
        return uuid.UUID(want) == got
    if isinstance(want, bool):
        return want == bool(got)
    if isinstance(want, list):
        return want == list(got)
    return want == got


def main(ready_file, schema_folder):
    ready = json.loads(pathlib.Path(ready_file).read_text())
    registry = SchemaRegistryClient({"url": ready["registry"]})
    producer = Producer({"bootstrap.servers": ready["kafka"], "acks": "all", "enable.idempotence": False})
    sent, failures = {}, []

    def delivered(error, _):
        if error:
            failures.append(str(error))

    for name, body in events():
        topic, key = TOPICS[name]
        text = (pathlib.Path(schema_folder) / (name + ".avsc")).read_text()
        schema_id = registry.register_schema(topic + "-value", Schema(text, "AVRO"))
        schema = fastavro.parse_schema(json.loads(text), named_schemas={})

        def publish(event):
            buffer = io.BytesIO()
            buffer.write(struct.pack(">bI", 0, schema_id))
            fastavro.schemaless_writer(buffer, schema, event)
            producer.produce(topic, buffer.getvalue(), key=flat(event)[snake(key)], on_delivery=delivered)

        first = {"header": header("rec-" + name), **body}
        corrected = {"header": header("rec-" + name, 2), **body}
        corrected["header"]["orgCode"] = "H501"
        if name == "RecordRevoked":
            corrected["revokedUpToVersion"] = 0
        invalid = {"header": header("bad-" + name, 0), **body}
        for event in (first, first, corrected, invalid):
            publish(event)
        sent[name] = (first, corrected, invalid)
    producer.flush(30)
    if failures:
        sys.exit("not delivered: " + failures[0])

    host, port = ready["clickhouse_http"].removeprefix("http://").split(":")
    planner = clickhouse_connect.get_client(host=host, port=int(port), username="planner")
    deadline = time.time() + 60
    while True:
        read = planner.query("SELECT sum(read) FROM welfare.books").result_rows[0][0]
        behind = planner.query("SELECT count() FROM welfare.freshness WHERE aggregated_to < ledgered_to OR settled_to < ledgered_to").result_rows[0][0]
        if read >= 4 * len(TOPICS) and behind == 0:
            break
        if time.time() > deadline:
            sys.exit(f"after a minute {read} of {4 * len(TOPICS)} records are booked")
        time.sleep(0.2)

    wrong = []
    for name, (first, corrected, invalid) in sent.items():
        topic, table = TOPICS[name][0], snake(name)[1:]
        books = planner.query("SELECT sum(read), sum(loaded), sum(duplicate), sum(rejected) FROM welfare.books WHERE topic = %(t)s", {"t": topic}).result_rows[0]
        if tuple(books) != (4, 2, 1, 1):
            wrong.append(f"{topic}: books {books}")
        rejects = planner.query("SELECT code, source, event_id FROM welfare.rejected WHERE topic = %(t)s", {"t": topic}).result_rows
        if [tuple(map(str, r)) for r in rejects] != [("E02", SOURCE, invalid["header"]["eventId"])]:
            wrong.append(f"{topic}: rejected {rejects}")
        for view, order, want in ((table, 1, first), (table, 2, corrected), (table + "_current", 2, corrected)):
            formats = {"sensitive": "bytes"} if name == "NeedAssessed" else None
            result = planner.query(f"SELECT * FROM welfare.{view} WHERE record_version = %(v)s", {"v": order}, column_formats=formats)
            rows = [dict(zip(result.column_names, r)) for r in result.result_rows]
            if len(rows) != 1:
                wrong.append(f"{view}: {len(rows)} rows of version {order}")
                continue
            for column, value in flat(want).items():
                if column not in rows[0] or not same(value, rows[0][column]):
                    wrong.append(f"{view}.{column}: sent {value!r}, read {rows[0].get(column, 'no column')!r}")
        if planner.query(f"SELECT count() FROM welfare.{table}_current").result_rows[0][0] != 1:
            wrong.append(f"{table}_current does not hold one record")
    cell = planner.query(
        "SELECT requests, waiting, granted, population FROM welfare.supply_demand WHERE level = 'COMUNE' AND territory_code = '015146' AND requests > 0"
    ).result_rows
    if [tuple(r[:1]) for r in cell] != [(1,)]:
        wrong.append(f"supply_demand of Milano: {cell}")
    wrong += outcomes(ready["kafka"], registry, sent)
    wrong += dead_letters(ready["kafka"], sent)
    wrong += schemas(registry, schema_folder)
    wrong += planners_rights(host, int(port))
    if wrong:
        sys.exit("\n".join(wrong))
    print("ok")


def outcomes(brokers, registry, sent):
    """Every event has exactly one outcome, for each of two client libraries, each in a consumer group."""
    want = collections.Counter()
    for first, corrected, invalid in sent.values():
        want[first["header"]["eventId"], "LOADED", ()] += 1
        want[first["header"]["eventId"], "DUPLICATE", ()] += 1
        want[corrected["header"]["eventId"], "LOADED", ()] += 1
        want[invalid["header"]["eventId"], "REJECTED", ("E02",)] += 1
    parsed = {}

    def confluent():
        consumer = Consumer({"bootstrap.servers": brokers, "group.id": "outside-confluent", "auto.offset.reset": "earliest"})
        consumer.subscribe(["welfare.outcome"])
        try:
            while True:
                message = consumer.poll(1)
                if message is None:
                    yield None
                elif message.error():
                    sys.exit(f"confluent-kafka: {message.error()}")
                else:
                    yield message.key(), message.value()
        finally:
            consumer.close()

    def python():
        consumer = kafka.KafkaConsumer("welfare.outcome", bootstrap_servers=brokers, group_id="outside-python", auto_offset_reset="earliest")
        try:
            while True:
                batches = consumer.poll(timeout_ms=1000)
                if not batches:
                    yield None
                for batch in batches.values():
                    for message in batch:
                        yield message.key, message.value
        finally:
            consumer.close()

    wrong = []
    for client in (confluent, python):
        seen, deadline, messages = {}, time.time() + 30, client()
        for message in messages:
            if message is None:
                if len(seen) >= sum(want.values()) or time.time() > deadline:
                    break
                continue
            key, value = message
            magic, schema_id = struct.unpack(">bI", value[:5])
            if schema_id not in parsed:
                parsed[schema_id] = fastavro.parse_schema(json.loads(registry.get_schema(schema_id).schema_str))
            report = fastavro.schemaless_reader(io.BytesIO(value[5:]), parsed[schema_id])
            if magic != 0 or key.decode() != report["source"] or report["source"] != SOURCE:
                wrong.append(f"{client.__name__}: an outcome of {report['source']} under key {key}")
            for o in report["outcomes"]:
                place = report["topic"], report["partition"], o["offset"]
                outcome = o["eventId"], o["outcome"], tuple(o["codes"])
                if seen.setdefault(place, outcome) != outcome:
                    wrong.append(f"{client.__name__}: the outcome of {place} changed")
        messages.close()
        if collections.Counter(seen.values()) != want:
            wrong.append(f"{client.__name__}: outcomes {sorted((want - collections.Counter(seen.values())).items())} are missing of {len(seen)}")
    return wrong


def dead_letters(brokers, sent):
    """Each reject lies in the topic's dead letters, with the original key and value."""
    topics = {topic + ".dlq": (name, topic) for name, (topic, _) in TOPICS.items()}
    consumer = kafka.KafkaConsumer(*topics, bootstrap_servers=brokers, auto_offset_reset="earliest", consumer_timeout_ms=20000)
    wrong, seen = [], set()
    for message in consumer:
        name, topic = topics[message.topic]
        seen.add(name)
        headers = {k: v.decode() for k, v in message.headers}
        digest = hashlib.sha256(message.value).hexdigest()
        if (headers["wh_code"], headers["wh_topic"], headers["wh_value_sha256"]) != ("E02", topic, digest) or message.value[0] != 0:
            wrong.append(f"{message.topic}: {headers}")
        if sent[name][2]["header"]["eventId"].encode() not in message.value:
            wrong.append(f"{message.topic}: not the value that was sent")
        if len(seen) == len(topics):
            break
    consumer.close()
    return wrong + [f"{name}: no dead letter" for name, _ in topics.values() if name not in seen]


def schemas(registry, schema_folder):
    """Confluent's client reads what is registered, and is refused what is not compatible."""
    wrong = []
    for name, (topic, _) in TOPICS.items():
        subject = topic + "-value"
        latest = registry.get_latest_version(subject)
        ours = json.loads((pathlib.Path(schema_folder) / (name + ".avsc")).read_text())
        if latest.version != 1 or json.loads(latest.schema.schema_str)["name"] != name or subject not in registry.get_subjects():
            wrong.append(f"{subject}: version {latest.version} is {latest.schema.schema_str[:60]}")
        if registry.lookup_schema(subject, Schema(json.dumps(ours), "AVRO")).schema_id != latest.schema_id:
            wrong.append(f"{subject}: the same schema, written otherwise, is not found")
        ours["fields"].append({"name": "extra", "type": "string"})
        other = Schema(json.dumps(ours), "AVRO")
        if registry.test_compatibility(subject, other):
            wrong.append(f"{subject}: a new field without a default counts as compatible")
        try:
            registry.register_schema(subject, other)
            wrong.append(f"{subject}: an incompatible schema was registered")
        except SchemaRegistryError as e:
            if e.http_status_code != 409:
                wrong.append(f"{subject}: {e}")
    return wrong


def planners_rights(host, port):
    """planner may set limits within bounds, and can neither write nor look behind the views."""
    wrong = []
    planner = clickhouse_connect.get_client(
        host=host, port=port, username="planner", database="welfare", compress=True,
        settings={"max_execution_time": 30, "max_threads": 2, "max_result_rows": 1000, "result_overflow_mode": "break", "date_time_input_format": "best_effort"},
    )
    value = planner.query("SELECT getSetting('max_execution_time')").result_rows[0][0]
    if int(float(value)) != 30:
        wrong.append(f"planner asked for 30 s and has {value}")
    if planner.command("SELECT count() FROM supply_demand") == 0:
        wrong.append("planner sees no cell")
    for query, settings in (
        ("SELECT 1", {"max_execution_time": 3600}), ("SELECT 1", {"readonly": 0}), ("SELECT 1", {"max_execution_time": 0}),
        ("SELECT 1", {"max_memory_usage": 0}), ("SELECT 1", {"max_rows_to_read": 0}), ("SELECT 1", {"max_result_rows": 0}),
        ("SELECT count() FROM store.service_requested", {}), ("SELECT * FROM url('http://127.0.0.1:1/', 'CSV', 'a String')", {}),
        ("INSERT INTO welfare.books VALUES (1)", {}), ("CREATE TABLE welfare.mine (a Int8) ENGINE = Memory", {}), ("DROP VIEW welfare.books", {}),
    ):
        try:
            planner.command(query, settings=settings)
            wrong.append(f"planner may: {query} {settings}")
        except DatabaseError as e:
            if not any(s in str(e) for s in ("ACCESS_DENIED", "READONLY", "SETTING_CONSTRAINT_VIOLATION", "shouldn't be greater", "Not enough privileges", "readonly")):
                wrong.append(f"planner: {query}: {str(e)[:200]}")
    return wrong


if __name__ == "__main__":
    NOMENCLATURE = sys.argv[3]
    main(sys.argv[1], sys.argv[2])
