defmodule Leash.Stdio.LogLinesTest do
  use ExUnit.Case, async: true

  alias Leash.Stdio.LogLines

  # Pushes parts, each at its time, and ends. Returns all texts.
  defp texts(parts) do
    {lines, at, texts} =
      Enum.reduce(parts, {LogLines.new(4), 0, []}, fn part, {lines, at, texts} ->
        {data, at} = if is_binary(part), do: {part, at}, else: part
        {more, lines} = LogLines.push(lines, data, at)
        {lines, at, texts ++ more}
      end)

    {rest, _lines} = LogLines.finish(lines, at)
    texts ++ rest
  end

  test "lines end at line feeds, and a carriage return before one belongs to it" do
    assert texts(["one\ntw", "o\r", "\n\nthree\r\r\nfour"]) == ["one", "two", "", "three", "four"]
    assert texts(["\r\n", "\r"]) == [""]
  end

  test "a character in two reads is one, and what stays cut is replaced" do
    assert texts(["\xE2\x9C", "\x93 Ready\n", "gr\xFCn\n", "\xE2\x9C"]) ==
             ["✓ Ready", "gr\uFFFDn", "\uFFFD\uFFFD"]
  end

  test "a line of 400 kB comes in parts that a log backend takes, and nothing is lost" do
    for {line, shown} <- [
          {String.duplicate("é", 200_000) <> "END", String.duplicate("é", 200_000) <> "END"},
          {String.duplicate("\e", 400_000), String.duplicate("␛", 400_000)}
        ],
        size <- [65_536, 400_001, 1_001] do
      whole_parts = div(byte_size(line), size)
      parts = for n <- 1..whole_parts//1, do: binary_part(line, (n - 1) * size, size)
      rest = binary_part(line, whole_parts * size, rem(byte_size(line), size))
      texts = texts(parts ++ [rest <> "\nnext\n"])
      assert {whole, ["next"]} = Enum.split(texts, -1)
      assert Enum.all?(whole, &(String.valid?(&1) and byte_size(&1) < 8_096))
      assert Enum.all?(tl(whole), &String.starts_with?(&1, "…"))
      assert Enum.all?(Enum.drop(whole, -1), &String.ends_with?(&1, "…"))
      assert Enum.map_join(whole, &String.replace(&1, "…", "")) == shown
    end
  end

  test "a progress bar is shown once a second, and its last state at the end" do
    for {form, last} <- [
          {&"#{&1}%\r", "99%"},
          {&"\r#{&1}%", "99%"},
          {&"\r\e[K#{&1}%", "␛[K99%"}
        ] do
      parts = for percent <- 0..99, do: {form.(percent), percent * 100}
      texts = texts(parts)
      assert length(texts) in 10..12
      assert List.last(texts) == last
      assert texts == Enum.uniq(texts)
    end

    # All arrive at once, with the line that follows.
    assert texts(["1%\r2%\r3%\r\ndone\n"]) == ["2%", "3%", "done"]
    assert [first, "done"] = texts([String.duplicate("x\r", 100_000) <> "done\n"])
    assert first == "x"
  end

  test "a state that stays is shown after a second, once" do
    {[], lines} = LogLines.push(LogLines.new(4), "10%\r", 0)
    assert LogLines.due_in(lines, 0) == 1_000
    assert {["10%"], lines} = LogLines.due(lines, 1_000)
    assert LogLines.due_in(lines, 1_000) == nil
    assert {[], lines} = LogLines.push(lines, "20%\r", 2_500)
    assert LogLines.due_in(lines, 2_500) == 1
    assert {["20%"], lines} = LogLines.due(lines, 2_501)
    assert {[], lines} = LogLines.push(lines, "\n", 9_000)
    assert {["20%"], _lines} = LogLines.push(lines, "20%\n", 9_001)
  end

  test "carriage returns alone are held back by one byte" do
    {[], lines} = LogLines.push(LogLines.new(4), String.duplicate("\r", 100_000), 0)
    assert lines.line == "\r"
  end
end
