// What a planner's tool that speaks JDBC does: connect as planner, read supply_demand and the event that
// tests/e2e/jdbc_test.go published, send limits of its own, and be refused those that are not allowed.
// Run by `java -cp '.cache/jdbc/lib/*' tests/jdbc/Planner.java HOST:PORT`; it prints "ok", or what is wrong.

import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.Instant;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Calendar;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.TimeZone;
import java.util.UUID;

public class Planner {
    private static final List<String> wrong = new ArrayList<>();
    private static String url;

    public static void main(String[] args) throws Exception {
        url = "jdbc:clickhouse://" + args[0] + "/welfare";
        try (Connection c = connect()) {
            values(c);
            supplyDemand(c);
            metadata(c);
            limits(c);
            rights(c);
        }
        settingsOfTheConnection();
        wrong.forEach(System.err::println);
        if (!wrong.isEmpty()) {
            System.exit(1);
        }
        System.out.println("ok");
    }

    private static Connection connect(String... settings) throws SQLException {
        Properties p = new Properties();
        p.setProperty("user", "planner");
        for (int i = 0; i < settings.length; i += 2) {
            p.setProperty(settings[i], settings[i + 1]);
        }
        return DriverManager.getConnection(url, p);
    }

    private static void same(String what, Object got, Object want) {
        if (!Objects.equals(got, want)) {
            wrong.add(what + ": read " + got + ", want " + want);
        }
    }

    /** Each kind of column reads as what it is. */
    private static void values(Connection c) throws SQLException {
        try (PreparedStatement s = c.prepareStatement("SELECT * FROM benefit_decided WHERE source_record_id = ?")) {
            s.setString(1, "decision-1");
            try (ResultSet r = s.executeQuery()) {
                if (!r.next()) {
                    wrong.add("benefit_decided has not the event");
                    return;
                }
                same("event_id", r.getObject("event_id", UUID.class), UUID.fromString("0190a5c0-0000-7000-8000-00000000000a"));
                same("event_id as text", r.getString("event_id"), "0190a5c0-0000-7000-8000-00000000000a");
                same("pseudonym", r.getString("pseudonym"), "ab".repeat(32));
                same("monthly_amount", r.getBigDecimal("monthly_amount"), new BigDecimal("101.20"));
                same("hours_per_month", r.getBigDecimal("hours_per_month"), new BigDecimal("12.500"));
                // This JVM is started in another zone. The driver's getTimestamp without a calendar takes the wall clock of
                // UTC for one of the JVM's zone, so a tool must ask for UTC, or for a time with an offset.
                Calendar utc = Calendar.getInstance(TimeZone.getTimeZone("UTC"));
                same("occurred_at", r.getTimestamp("occurred_at", utc).toInstant(), Instant.parse("2024-05-31T22:30:00.123Z"));
                same("occurred_at with its offset", r.getObject("occurred_at", OffsetDateTime.class).toInstant(), Instant.parse("2024-05-31T22:30:00.123Z"));
                same("start_date", r.getObject("start_date", LocalDate.class), LocalDate.of(2024, 6, 1));
                same("start_date as java.sql.Date", r.getDate("start_date"), Date.valueOf("2024-06-01"));
                same("end_date", r.getObject("end_date", LocalDate.class), null);
                same("one_off_amount", r.getBigDecimal("one_off_amount"), null);
                same("one_off_amount was null", r.wasNull(), true);
                same("birth_year as int", r.getInt("birth_year"), 0);
                same("birth_year was null", r.wasNull(), true);
                same("household_pseudonym", r.getString("household_pseudonym"), null);
                same("months", r.getInt("months"), 6);
                same("decision", r.getString("decision"), "GRANTED");
                same("sex", r.getString("sex"), "UNKNOWN");
                same("taken_in_charge", r.getBoolean("taken_in_charge"), true);
                same("record_version", r.getLong("record_version"), 1L);
                same("no second row", r.next(), false);
            }
        }
    }

    private static void supplyDemand(Connection c) throws SQLException {
        String query = "SELECT granted, period_start, capacity, population, updated_at FROM welfare.supply_demand"
            + " WHERE level = 'COMUNE' AND territory_code = '015146' AND granted > 0";
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery(query)) {
            if (!r.next()) {
                wrong.add("supply_demand has no cell of the event");
                return;
            }
            same("granted", r.getLong("granted"), 1L);
            // 22:30 UTC on the last of May is June in Rome.
            same("period_start", r.getObject("period_start", LocalDate.class), LocalDate.of(2024, 6, 1));
            same("capacity", r.getBigDecimal("capacity").signum(), 0);
            same("population", r.getObject("population"), null);
            same("updated_at is there", r.getTimestamp("updated_at") != null, true);
        }
    }

    /** Tools list tables, columns and their comments. */
    private static void metadata(Connection c) throws SQLException {
        try (ResultSet r = c.getMetaData().getColumns(null, "welfare", "supply_demand", "population")) {
            if (!r.next()) {
                wrong.add("the metadata lack supply_demand.population");
                return;
            }
            same("comment of population", r.getString("REMARKS").contains("do not sum it"), true);
            same("type of population", r.getInt("DATA_TYPE"), Types.BIGINT);
        }
    }

    /** The driver sends time and row limits with a query; those within bounds hold, the others are refused. */
    private static void limits(Connection c) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.setQueryTimeout(30);
            s.setMaxRows(10);
            try (ResultSet r = s.executeQuery("SELECT toFloat64(getSetting('max_execution_time')), toUInt64(getSetting('max_result_rows'))")) {
                r.next();
                double seconds = r.getDouble(1);
                same("a time limit within bounds", seconds > 0 && seconds <= 60, true);
            }
            int rows = 0;
            try (ResultSet r = s.executeQuery("SELECT database FROM (SELECT 'x' AS database FROM benefit_decided ARRAY JOIN range(100) AS i)")) {
                while (r.next()) {
                    rows++;
                }
            }
            same("rows under setMaxRows(10)", rows, 10);
        }
        for (String setting : new String[] {
            "max_execution_time = 0", "max_execution_time = 3600", "max_memory_usage = 0", "max_memory_usage = 100000000000", "max_rows_to_read = 0",
            "max_result_rows = 0", "max_result_rows = 1000001", "max_result_bytes = 0", "max_concurrent_queries_for_user = 0", "readonly = 0",
        }) {
            String name = setting.substring(0, setting.indexOf(' '));
            refused(c, "SELECT 1 SETTINGS " + setting, name, "shouldn't be", "should not be", "Cannot modify");
        }
    }

    private static void rights(Connection c) throws SQLException {
        for (String query : new String[] {
            "SELECT count() FROM store.benefit_decided", "INSERT INTO welfare.replays SELECT * FROM welfare.replays",
            "CREATE TABLE welfare.mine (a Int8) ENGINE = Memory", "DROP VIEW welfare.books",
        }) {
            refused(c, query, "", "Not enough privileges", "readonly");
        }
    }

    /** Settings given with the connection, as a tool's form has them. */
    private static void settingsOfTheConnection() throws SQLException {
        try (Connection c = connect("clickhouse_setting_max_execution_time", "20", "clickhouse_setting_max_threads", "1", "socket_timeout", "30000");
            Statement s = c.createStatement();
            ResultSet r = s.executeQuery("SELECT toFloat64(getSetting('max_execution_time'))")) {
            r.next();
            same("max_execution_time of the connection", r.getDouble(1), 20.0);
        }
        try (Connection c = connect("clickhouse_setting_max_execution_time", "3600")) {
            refused(c, "SELECT 1", "max_execution_time", "shouldn't be greater than 60");
        } catch (SQLException e) { // a driver may ask the server something when it connects
            clear(e, "connection with max_execution_time 3600", "max_execution_time", "shouldn't be greater than 60");
        }
    }

    private static void refused(Connection c, String query, String name, String... because) {
        try (Statement s = c.createStatement()) {
            s.execute(query);
            wrong.add("planner may: " + query);
        } catch (SQLException e) {
            clear(e, query, name, because);
        }
    }

    /** A refusal names the setting and says what is wrong with it. */
    private static void clear(SQLException e, String query, String name, String... because) {
        StringBuilder text = new StringBuilder();
        for (Throwable t = e; t != null; t = t.getCause()) {
            text.append(t.getMessage()).append('\n');
        }
        if (text.indexOf(name) < 0) {
            wrong.add(query + ": does not name " + name + ": " + text);
        }
        for (String b : because) {
            if (text.indexOf(b) >= 0) {
                return;
            }
        }
        wrong.add(query + ": refused, but not clearly: " + text);
    }
}
