"""Drives a schema registry with Confluent's own Python client.

Usage: confluent_client.py URL SCHEMA_FOLDER. The registry must be empty. Exits 0 and prints "ok" when
every answer was the one that Confluent's registry gives.
"""
import json
import pathlib
import sys

from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry import record_subject_name_strategy, topic_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext

url, folder = sys.argv[1], pathlib.Path(sys.argv[2])


def new_client():
    return SchemaRegistryClient({"url": url, "max.retries": 0})


client = new_client()


def avro(text):
    return Schema(text if isinstance(text, str) else json.dumps(text), "AVRO")


def user(*fields, name="User"):
    return {"type": "record", "name": name, "namespace": "t",
            "fields": [{"name": "id", "type": "int"}] + [dict(f) for f in fields]}


NOTE = {"name": "note", "type": ["null", "string"], "default": None}
AGE = {"name": "age", "type": "int"}


def equal(what, got, want):
    if got != want:
        sys.exit(f"{what}: got {got!r}, want {want!r}")


def fails(what, status, code, call, text=""):
    try:
        got = call()
    except SchemaRegistryError as e:
        equal(what, (e.http_status_code, e.error_code), (status, code))
        if text not in e.error_message:
            sys.exit(f"{what}: message {e.error_message!r} lacks {text!r}")
        return
    sys.exit(f"{what}: got {got!r}, want error {code}")


# Empty.
equal("subjects", client.get_subjects(), [])
equal("types", client.get_schema_types(), ["AVRO"])
equal("contexts", client.get_contexts(), ["."])
equal("global level", client.get_compatibility(), "FULL_TRANSITIVE")
equal("global mode", client.get_global_mode(), "READWRITE")
fails("no subject", 404, 40401, lambda: client.get_versions("nobody"))
fails("no schema", 404, 40403, lambda: client.get_schema(1))

# Registration, look-up, ids.
one = client.register_schema("u-value", avro(user()))
equal("first id", one, 1)
equal("the same again", new_client().register_schema("u-value", avro(json.dumps(user(), indent=3))), 1)
equal("the same, normalized", new_client().register_schema("u-value", avro(user()), normalize_schemas=True), 1)
equal("the same elsewhere", new_client().register_schema("v/w value", avro(user())), 1)
equal("second", client.register_schema("u-value", avro(user(NOTE))), 2)
equal("subjects", client.get_subjects(), ["u-value", "v/w value"])
equal("prefix", client.get_subjects(subject_prefix="v"), ["v/w value"])
equal("versions", client.get_versions("u-value"), [1, 2])
equal("schema", json.loads(client.get_schema(1).schema_str), user())
equal("subjects of an id", client.get_subjects_by_schema_id(1), ["u-value", "v/w value"])
equal("versions of an id", [(v.subject, v.version) for v in client.get_schema_versions(1)], [("u-value", 1), ("v/w value", 1)])
last = client.get_latest_version("u-value")
equal("latest", (last.subject, last.version, last.schema_id, json.loads(last.schema.schema_str)), ("u-value", 2, 2, user(NOTE)))
first = client.get_version("u-value", 1)
equal("version 1", (first.version, first.schema_id), (1, 1))
found = client.lookup_schema("u-value", avro(json.dumps(user(), indent=1)))
equal("look-up", (found.schema_id, found.version), (1, 1))
fails("look-up of another", 404, 40403, lambda: client.lookup_schema("u-value", avro(user(AGE))))
fails("look-up in no subject", 404, 40401, lambda: client.lookup_schema("nobody", avro(user())))
fails("no version", 404, 40402, lambda: client.get_version("u-value", 9))
fails("bad version", 422, 42202, lambda: client.get_version("u-value", "x"))
fails("bad schema", 422, 42201, lambda: client.register_schema("u-value", avro('{"type":"record"}')))

# Compatibility.
equal("compatible", client.test_compatibility("u-value", avro(user(NOTE))), True)
equal("incompatible", client.test_compatibility("u-value", avro(user(AGE))), False)
equal("incompatible with all", client.test_compatibility_all_versions("u-value", avro(user(AGE))), False)
fails("incompatible", 409, 409, lambda: client.register_schema("u-value", avro(user(AGE))), "age")
fails("no level of its own", 404, 40408, lambda: client.get_compatibility("u-value"))
client.set_compatibility("u-value", "FORWARD")
equal("own level", client.get_compatibility("u-value"), "FORWARD")
equal("own config", client.get_config("u-value").compatibility_level.value, "FORWARD")
equal("third", client.register_schema("u-value", avro(user(NOTE, AGE))), 3)
client.delete_config("u-value")
fails("level is gone", 404, 40408, lambda: client.get_compatibility("u-value"))
fails("bad level", 422, 42203, lambda: client.set_compatibility("u-value", "SOME"))
client.set_compatibility(level="BACKWARD")
equal("new global level", client.get_compatibility(), "BACKWARD")
client.set_compatibility(level="FULL_TRANSITIVE")

# Modes.
fails("no mode of its own", 404, 40409, lambda: client.get_mode("u-value"))
equal("set mode", client.update_mode("u-value", "READONLY"), "READONLY")
equal("own mode", client.get_mode("u-value"), "READONLY")
fails("read-only", 422, 42205, lambda: client.register_schema("u-value", avro(user(NOTE, name="Other"))))
equal("delete mode", client.delete_mode("u-value"), "READONLY")
fails("bad mode", 422, 42204, lambda: client.update_global_mode("SLOW"))
equal("global mode", client.update_global_mode("READONLY_OVERRIDE"), "READONLY_OVERRIDE")
equal("global mode", client.update_global_mode("READWRITE"), "READWRITE")
fails("import", 422, 42205, lambda: client.update_global_mode("IMPORT"))

# Deletion.
equal("delete version", client.delete_version("u-value", 3), 3)
fails("deleted version", 404, 40406, lambda: client.delete_version("u-value", 3))
equal("versions", client.get_versions("u-value"), [1, 2])
equal("versions with deleted", client.get_versions("u-value", deleted=True), [1, 2, 3])
equal("schema of a deleted version", json.loads(new_client().get_schema(3).schema_str), user(NOTE, AGE))
fails("permanent first", 404, 40407, lambda: client.delete_version("u-value", 2, permanent=True))
equal("delete for good", client.delete_version("u-value", 3, permanent=True), 3)
fails("gone", 404, 40403, lambda: new_client().get_schema(3))
fails("permanent first", 404, 40405, lambda: client.delete_subject("u-value", permanent=True))
equal("delete subject", client.delete_subject("u-value"), [1, 2])
fails("deleted subject", 404, 40404, lambda: client.delete_subject("u-value"))
fails("deleted subject", 404, 40401, lambda: client.get_versions("u-value"))
equal("deleted subjects", client.get_subjects(deleted=True), ["u-value", "v/w value"])
equal("delete subject for good", client.delete_subject("u-value", permanent=True), [1, 2])
equal("delete subject", client.delete_subject("v/w value"), [1])
equal("delete subject for good", client.delete_subject("v/w value", permanent=True), [1])
equal("subjects", client.get_subjects(deleted=True), [])

# References, and Confluent's serializers over them.
client = new_client()
money = {"type": "record", "name": "Money", "namespace": "ref", "fields": [{"name": "cents", "type": "long"}]}
bill = {"type": "record", "name": "Bill", "namespace": "t", "fields": [{"name": "sum", "type": "ref.Money"}]}
money_id = client.register_schema("money", avro(money))
equal("ids are not given twice", money_id, 4)
with_money = Schema(json.dumps(bill), "AVRO", [SchemaReference("ref.Money", "money", 1)])
for strategy in (topic_subject_name_strategy, record_subject_name_strategy):
    c = new_client()
    ctx = SerializationContext("bills", MessageField.VALUE)
    data = AvroSerializer(c, with_money, conf={"subject.name.strategy": strategy})({"sum": {"cents": 7}}, ctx)
    equal("wire format", (data[0], int.from_bytes(data[1:5], "big")), (0, 5))
    equal("round trip", AvroDeserializer(new_client(), conf={"subject.name.strategy": strategy})(data, ctx), {"sum": {"cents": 7}})
equal("references", [(r.name, r.subject, r.version) for r in client.get_latest_version("bills-value").schema.references], [("ref.Money", "money", 1)])
equal("referenced by", client.get_referenced_by("money", 1), [5])
fails("referenced", 422, 42206, lambda: client.delete_version("money", 1))
fails("no reference", 422, 42201, lambda: client.register_schema("x", Schema(json.dumps(bill), "AVRO", [SchemaReference("ref.Money", "none", 1)])))

# The hub's own schemas: registered by its tools already, found by text, as a producer would.
for path in sorted(folder.glob("*.avsc")):
    text = path.read_text()
    subject = "hub." + path.stem
    got = client.register_schema(subject, avro(text))
    equal(path.stem, json.loads(client.get_schema(got).schema_str)["name"], path.stem)
    equal(path.stem, new_client().lookup_schema(subject, avro(json.dumps(json.loads(text)))).schema_id, got)
    equal(path.stem, new_client().lookup_schema(subject, avro(client.get_schema(got).schema_str)).schema_id, got)
print("ok")
