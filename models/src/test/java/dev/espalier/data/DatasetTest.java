package dev.espalier.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.espalier.EspalierException;
import dev.espalier.tensor.Seed;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class DatasetTest {

    @TempDir
    Path folder;

    private Path file(String name, String content) throws IOException {
        return Files.writeString(folder.resolve(name), content);
    }

    private Dataset read(String name, String content) throws IOException {
        return Dataset.read(file(name, content), DataOptions.DEFAULT);
    }

    private void refuses(String name, String content, String message) throws IOException {
        refuses(name, content, DataOptions.DEFAULT, message);
    }

    private void refuses(String name, String content, DataOptions options, String message) throws IOException {
        Path file = file(name, content);
        assertThatThrownBy(() -> Dataset.read(file, options))
                .isInstanceOf(EspalierException.class)
                .hasMessage(message.replace("FILE", file.toString()));
    }

    @Test
    void labelledCsvKeepsQuotesBreaksAndTheLineOfEachRow() throws IOException {
        Dataset data = read("a.csv", "\uFEFFtext,label\r\n\"two\nlines, \"\"quoted\"\"\",1\r\n\r\n5\" disk,02\r\n");
        String file = folder.resolve("a.csv").toString();
        assertThat(data.shape()).isEqualTo(Shape.LABELLED);
        assertThat(data.examples())
                .containsExactly(
                        new Example.Labelled("two\nlines, \"quoted\"", null, "1", file + ":2"),
                        new Example.Labelled("5\" disk", null, "02", file + ":5"));
        assertThat(data.summary()).isEqualTo(file + ": 2 rows of text + label");
    }

    /** DuckDB writes what we read: an independent hand at the same format. */
    @Test
    void csvOfAnotherWriterIsReadAsMeant() throws SQLException {
        Path file = folder.resolve("a.csv");
        Random random = new Random(11);
        List<String> texts = new ArrayList<>();
        try (var duckdb = DriverManager.getConnection("jdbc:duckdb:");
                var statement = duckdb.createStatement()) {
            statement.execute("CREATE TABLE t (text VARCHAR, label VARCHAR)");
            try (var insert = duckdb.prepareStatement("INSERT INTO t VALUES (?, 'x')")) {
                for (int i = 0; i < 300; i++) {
                    StringBuilder text = new StringBuilder("t");
                    for (int n = random.nextInt(12); n > 0; n--) {
                        text.append(List.of("\"", ",", "\n", "\r\n", " ", "a", "\u00e9", "\ud83c\udf33", "'", ";")
                                .get(random.nextInt(10)));
                    }
                    texts.add(text.toString());
                    insert.setString(1, text.toString());
                    insert.execute();
                }
            }
            statement.execute("COPY t TO '" + file + "' (HEADER)");
        }
        assertThat(Dataset.read(file, DataOptions.DEFAULT).examples())
                .extracting(e -> ((Example.Labelled) e).text())
                .containsExactlyElementsOf(texts);
    }

    @Test
    void semicolonsAndTabsAreTakenFromTheHeader() throws IOException {
        assertThat(read("a.csv", "text;label\na,b;c\n").examples())
                .containsExactly(new Example.Labelled("a,b", null, "c", folder.resolve("a.csv") + ":2"));
        assertThat(read("a.tsv", "text\tlabel\na,b\tc").examples())
                .containsExactly(new Example.Labelled("a,b", null, "c", folder.resolve("a.tsv") + ":2"));
    }

    @Test
    void columnsMayBeNamedAndTheRestIsReported() throws IOException {
        Path file = file("a.csv", "id,review,stars\n7,good,5\n");
        Dataset data = Dataset.read(file, DataOptions.of(Map.of("text", "review", "label", "stars"), null));
        assertThat(data.examples()).containsExactly(new Example.Labelled("good", null, "5", file + ":2"));
        assertThat(data.summary())
                .isEqualTo(file + ": 1 rows of text + label, text from \"review\", label from \"stars\"; "
                        + "columns not used: id");
    }

    @Test
    void fractionalLabelsAreScoresAndWholeOnesClasses() throws IOException {
        String file = folder.resolve("a.jsonl").toString();
        Dataset scored = read("a.jsonl", """
                {"sentence1":"a","sentence2":"b","label":3.5}
                {"sentence1":"c","sentence2":"d","label":4}
                """);
        assertThat(scored.shape()).isEqualTo(Shape.SCORED);
        assertThat(scored.examples())
                .containsExactly(
                        new Example.Scored("a", "b", 3.5, file + ":1"), new Example.Scored("c", "d", 4, file + ":2"));
        Path whole = file("b.csv", "text,label\na,4\n");
        assertThat(Dataset.read(whole, DataOptions.of(Shape.SCORED)).examples())
                .containsExactly(new Example.Scored("a", null, 4, whole + ":2"));
        Dataset classes = read("a.jsonl", "{\"text\":\"a\",\"label\":0}\n{\"text\":\"c\",\"label\":true}\n");
        assertThat(classes.examples())
                .containsExactly(
                        new Example.Labelled("a", null, "0", file + ":1"),
                        new Example.Labelled("c", null, "true", file + ":2"));
    }

    @Test
    void alpacaBecomesAChat() throws IOException {
        Dataset data = read("a.json", """
                [
                  {"instruction": "Add.", "input": "1 2", "output": "3"},
                  {"instruction": "Greet.", "input": "", "output": "Hello", "system": "Be kind.",
                   "history": [["Hi", "Yes?"]]}
                ]
                """);
        String file = folder.resolve("a.json").toString();
        assertThat(data.shape()).isEqualTo(Shape.ALPACA);
        assertThat(data.examples())
                .containsExactly(
                        new Example.Chat(
                                List.of(new Turn("user", "Add.\n\n1 2"), new Turn("assistant", "3")),
                                List.of(),
                                file + ":2"),
                        new Example.Chat(
                                List.of(
                                        new Turn("system", "Be kind."),
                                        new Turn("user", "Hi"),
                                        new Turn("assistant", "Yes?"),
                                        new Turn("user", "Greet."),
                                        new Turn("assistant", "Hello")),
                                List.of(),
                                file + ":3"));
    }

    @Test
    void shareGptAndMessagesBecomeChats() throws IOException {
        Dataset share = read("a.jsonl", """
                {"conversations":[{"from":"human","value":"Hi"},{"from":"gpt","value":"Hello"}],"system":"S"}
                """);
        assertThat(share.shape()).isEqualTo(Shape.SHAREGPT);
        assertThat(((Example.Chat) share.examples().get(0)).turns())
                .containsExactly(new Turn("system", "S"), new Turn("user", "Hi"), new Turn("assistant", "Hello"));
        Dataset messages = read("b.jsonl", """
                {"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},\
                {"role":"assistant","content":null,"tool_calls":[{"id":"x"}]},{"role":"tool","content":"5"},\
                {"role":"assistant","content":"five","weight":0}],"tools":[{"type":"function"}]}
                """);
        assertThat(messages.shape()).isEqualTo(Shape.CHAT);
        Example.Chat chat = (Example.Chat) messages.examples().get(0);
        assertThat(chat.tools()).containsExactly(Map.of("type", "function"));
        assertThat(chat.turns())
                .containsExactly(
                        new Turn("user", "ab"),
                        new Turn("assistant", "", Map.of("tool_calls", List.of(Map.of("id", "x")))),
                        new Turn("tool", "5"),
                        new Turn("assistant", "five", Map.of("weight", 0)));
        assertThat(chat.turns().stream().map(Turn::supervised)).containsExactly(false, true, false, false);
        assertThat(chat.turns().get(3).toMap()).isEqualTo(Map.of("role", "assistant", "content", "five"));
    }

    @Test
    void promptsPlainTextAndTokensAreRecognised() throws IOException {
        assertThat(read("a.jsonl", "{\"prompt\":\"q\",\"completion\":\"a\"}\n\n")
                        .examples())
                .containsExactly(new Example.Completion("q", "a", folder.resolve("a.jsonl") + ":1"));
        assertThat(read("a.txt", "one\n\ntwo").examples())
                .containsExactly(
                        new Example.Plain("one", folder.resolve("a.txt") + ":1"),
                        new Example.Plain("two", folder.resolve("a.txt") + ":3"));
        Dataset tokens = read("b.jsonl", "{\"input_ids\":[5,6,7],\"labels\":[-100,6,7]}\n");
        assertThat(tokens.shape()).isEqualTo(Shape.TOKENS);
        Example.Tokens example = (Example.Tokens) tokens.examples().get(0);
        assertThat(example.ids()).containsExactly(5, 6, 7);
        assertThat(example.supervised()).containsExactly(false, true, true);
    }

    @Test
    void jsonlThatEndsInJsonIsRead() throws IOException {
        assertThat(read("a.json", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n").examples())
                .containsExactly(
                        new Example.Plain("a", folder.resolve("a.json") + ":1"),
                        new Example.Plain("b", folder.resolve("a.json") + ":2"));
    }

    @Test
    void parquetCarriesNestedColumns() throws SQLException {
        Path file = folder.resolve("chat[1].parquet");
        try (var duckdb = DriverManager.getConnection("jdbc:duckdb:");
                var statement = duckdb.createStatement()) {
            statement.execute("COPY (SELECT [{'role': 'user', 'content': 'Hi ' || i}, "
                    + "{'role': 'assistant', 'content': 'Hello'}] AS messages FROM range(2) t(i)) TO '" + file
                    + "' (FORMAT parquet)");
        }
        Dataset data = Dataset.read(file, DataOptions.DEFAULT);
        assertThat(data.examples().get(1))
                .isEqualTo(new Example.Chat(
                        List.of(new Turn("user", "Hi 1"), new Turn("assistant", "Hello")), List.of(), file + ":row 2"));
    }

    @Test
    void aFolderHoldsSplitsOrPartsOfOne() throws IOException {
        file("train-00000-of-00002.csv", "text,label\na,x\n");
        file("train-00001-of-00002.jsonl", "{\"text\":\"b\",\"label\":\"y\"}\n");
        file("dev.csv", "text,label\nc,x\n");
        Splits splits = Splits.read(folder, DataOptions.DEFAULT);
        assertThat(splits.train().examples())
                .extracting(e -> ((Example.Labelled) e).text())
                .containsExactly("a", "b");
        assertThat(splits.validation().examples()).hasSize(1);
        assertThat(splits.test()).isNull();
        assertThatThrownBy(() -> Dataset.read(folder, DataOptions.DEFAULT))
                .hasMessage(folder + ": the folder holds several splits; name one of its files");
        file("notes.txt", "x");
        assertThatThrownBy(() -> Splits.read(folder, DataOptions.DEFAULT))
                .hasMessage(folder + ": beside files named after splits there is notes.txt; rename it or move it away");
    }

    @Test
    void filesOfOneFolderMustAgree() throws IOException {
        file("a.csv", "text,label\na,x\n");
        Path b = file("b.jsonl", "{\"prompt\":\"q\",\"completion\":\"a\"}\n");
        assertThatThrownBy(() -> Splits.read(folder, DataOptions.DEFAULT))
                .hasMessage(b + ":1: prompt + completion here, but text + label in the file before; "
                        + "files of one folder must have one shape");
    }

    @Test
    void missingColumnsNameThoseThereAre() throws IOException {
        refuses(
                "a.csv",
                "review,stars\ngood,5\n",
                "FILE:2: the columns review, stars fit no known shape (input_ids; messages; instruction + output; "
                        + "prompt + completion; text + label; text + score; text); name them in the recipe, as in "
                        + "columns.text: review, or add a header line if the file has none");
        refuses(
                "a.csv",
                "text,stars\ngood,5\n",
                DataOptions.of(Shape.LABELLED),
                "FILE:2: text + label data needs a column for the label (usually \"label\"), but the columns are "
                        + "text, stars; name it with columns.label");
        refuses(
                "a.csv",
                "text,stars\ngood,5\n",
                DataOptions.of(Map.of("label", "star"), null),
                "FILE:2: columns.label names the column \"star\", but the columns are text, stars; correct the name");
        refuses(
                "a.jsonl",
                "{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":\"a\",\"lable\":\"x\"}\n",
                "FILE:2: \"label\" is missing; the row has text, lable, so fill it in or delete the row");
        assertThatThrownBy(() -> DataOptions.of(Map.of("lable", "x"), null))
                .hasMessageStartingWith("columns.lable is not a column; the columns are text, text_pair, label, score");
        assertThatThrownBy(() -> DataOptions.of(Map.of("score", "x"), Shape.LABELLED))
                .hasMessage("columns.score is set, but text + label data has no such column; remove it");
    }

    @Test
    void malformedLinesAreNamed() throws IOException {
        refuses(
                "a.jsonl",
                "{\"text\":\"a\"}\n{\"text\":\"b\"\n",
                "FILE:2: not valid JSON at column 12: Unexpected end-of-input: expected close marker for Object; "
                        + "mend or delete the line");
        refuses(
                "a.jsonl",
                "{\"text\":\"a\"} x\n",
                "FILE:1: not valid JSON at column 14: Unrecognized token 'x'; mend or delete the line");
        refuses(
                "a.jsonl",
                "{\"text\":\"a\"}\n[1,2]\n",
                "FILE:2: a line of JSONL is one object in braces, found \"[1,2]\"; rename the file if it is not JSONL");
        refuses(
                "a.json",
                "[{\"text\":\"a\"},\n{\"text\":}]\n",
                "FILE:2: not valid JSON at column 9: Unexpected character ('}' (code 125)): expected a valid value; mend the file");
        refuses(
                "a.csv",
                "text,label\na,b\nc,d,e\n",
                "FILE:3: 3 fields where the header has 2 (text, label); put a field that contains ',' in double quotes");
        refuses(
                "a.csv",
                "text,label\n\"a,b\nc,d\n",
                "FILE:2: the quoted field that begins here is never closed; add a closing \"");
        refuses(
                "a.csv",
                "text,label\n\"a\"b,c\n",
                "FILE:2: 'b' follows a closing quote; write a quote inside a quoted field twice");
        refuses("a.csv", "text,text\na,b\n", "FILE: the header has the column \"text\" twice; rename one");
    }

    @ParameterizedTest
    @CsvSource({"a.csv,''", "a.jsonl,''", "a.json,'[]'", "b.json,''", "a.txt,' '", "b.csv,'text,label'"})
    void anEmptyFileIsRefused(String name, String content) throws IOException {
        refuses(name, content, "FILE: the file has no rows; name another file");
    }

    @Test
    void bytesThatAreNotUtf8AreFound() throws IOException {
        Path latin = folder.resolve("a.csv");
        Files.write(latin, "text,label\nna\u00efve,x\n".getBytes(StandardCharsets.ISO_8859_1));
        assertThatThrownBy(() -> Dataset.read(latin, DataOptions.DEFAULT))
                .hasMessage(latin + ":2: byte 0xEF at offset 13 is not UTF-8; save the file as UTF-8");
        Path late = folder.resolve("late.csv");
        Files.write(late, ("text\n" + "y\u00e4\n".repeat(100_000) + "n\u00ef").getBytes(StandardCharsets.UTF_8));
        byte[] cut = Files.readAllBytes(late);
        Files.write(late, java.util.Arrays.copyOf(cut, cut.length - 1));
        assertThatThrownBy(() -> Dataset.read(late, DataOptions.DEFAULT))
                .hasMessage(late + ":100002: byte 0xC3 at offset 400006 is not UTF-8; save the file as UTF-8");
        Path wide = folder.resolve("wide.csv");
        Files.write(wide, "text\na\n".getBytes(StandardCharsets.UTF_16));
        assertThatThrownBy(() -> Dataset.read(wide, DataOptions.DEFAULT))
                .hasMessage(wide + ":1: byte 0xFE at offset 0 is not UTF-8 (it looks like UTF-16); "
                        + "save the file as UTF-8");
    }

    @Test
    void unusableRowsAreNamed() throws IOException {
        refuses("a.csv", "text,label\na,x\n ,y\n", "FILE:3: \"text\" is empty; fill it in or delete the row");
        refuses("a.csv", "text,label\na,x\nb,\n", "FILE:3: the label is empty; fill it in or delete the row");
        refuses(
                "a.jsonl",
                "{\"text\":7,\"label\":1}\n",
                "FILE:1: \"text\" must be text, found 7; put it in quotes or name another column with columns.text");
        refuses(
                "a.jsonl",
                "{\"text\":\"a\",\"label\":[1,2]}\n",
                "FILE:1: the label must be one name or number, found a list; several labels a row are not supported");
        refuses(
                "a.csv",
                "text,score\na,high\n",
                "FILE:2: the score must be a number, found \"high\"; correct it or delete the row");
        refuses(
                "a.jsonl",
                "{\"messages\":[{\"role\":\"usr\",\"content\":\"a\"}]}\n",
                "FILE:1: turn 1 has the unknown role \"usr\"; use system, user (human), assistant (gpt) or tool "
                        + "(observation)");
        refuses(
                "a.jsonl",
                "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n",
                "FILE:1: no turn is the assistant's, so there is nothing to learn; add its answer or delete the row");
        refuses(
                "a.jsonl",
                "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\"}]}]}\n",
                "FILE:1: turn 1 has a part that is not text (image); only parts with type text are read, so remove it");
        refuses(
                "a.jsonl",
                "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":\"\"}]}\n",
                "FILE:1: turn 2 (assistant) is empty; fill it in or delete the row");
        refuses(
                "a.jsonl",
                "{\"input_ids\":[1,2.5]}\n",
                "FILE:1: input_ids[1] must be a token id, found 2.5; correct it");
        refuses(
                "a.jsonl",
                "{\"input_ids\":[1,2],\"labels\":[2,-100]}\n",
                "FILE:1: labels[0] is 2 where input_ids has 1; a label is its own token or -100");
    }

    @Test
    void pathsThatCannotBeReadAreExplained() throws IOException {
        Path absent = folder.resolve("absent.csv");
        assertThatThrownBy(() -> Dataset.read(absent, DataOptions.DEFAULT))
                .hasMessage(absent + ": there is no such file or folder; check the path");
        refuses(
                "a.xlsx",
                "x",
                "FILE: data files end in .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .txt; convert it or rename it");
        Path parquet = file("a.parquet", "not parquet");
        assertThatThrownBy(() -> Dataset.read(parquet, DataOptions.DEFAULT))
                .isInstanceOf(EspalierException.class)
                .hasMessageStartingWith(parquet + ": cannot be read as Parquet (");
        assertThatThrownBy(() -> Dataset.read(Files.createDirectory(folder.resolve("none")), DataOptions.DEFAULT))
                .hasMessage(folder.resolve("none") + ": the folder has no data files; they end in .jsonl, .ndjson, "
                        + ".json, .csv, .tsv, .parquet, .txt");
    }

    @Test
    void aSplitIsStratifiedAndDependsOnTheSeedAlone() throws IOException {
        StringBuilder csv = new StringBuilder("text,label\n");
        for (int i = 0; i < 100; i++) {
            csv.append("row ")
                    .append(i)
                    .append(',')
                    .append(i % 10 == 0 ? "rare" : "common")
                    .append('\n');
        }
        Dataset data = read("a.csv", csv.toString());
        Splits split = data.split(0.2, new Seed(7));
        assertThat(split.train().examples()).hasSize(80);
        assertThat(split.validation().examples()).hasSize(20);
        assertThat(split.validation().examples())
                .filteredOn(e -> ((Example.Labelled) e).label().equals("rare"))
                .hasSize(2);
        Set<Example> all = new HashSet<>(split.train().examples());
        all.addAll(split.validation().examples());
        assertThat(all).containsExactlyInAnyOrderElementsOf(data.examples());
        assertThat(data.split(0.2, new Seed(7))).isEqualTo(split);
        assertThat(data.split(0.2, new Seed(8)).validation().examples())
                .isNotEqualTo(split.validation().examples());
        assertThatThrownBy(() -> data.split(1, new Seed(7)))
                .hasMessage("the held-out fraction must lie in (0, 1), found 1.0; try 0.1");
        assertThatThrownBy(() -> read("b.csv", "text,label\na,x\nb,y\n").split(0.5, new Seed(1)))
                .hasMessage("holding out 0.5 of 2 examples leaves one side empty; add examples or change the fraction");
    }

    @Test
    void theHashIsThatOfTheBytes() throws IOException {
        // printf 'text\na\n' | sha256sum
        assertThat(read("a.csv", "text\na\n").sha256())
                .isEqualTo("ef271522dd0a16c1b66bcbadc17474307a88dea874019dc4146b4789a09a8c2d");
    }
}
