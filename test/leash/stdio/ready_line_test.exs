defmodule Leash.Stdio.ReadyLineTest do
  use ExUnit.Case, async: true

  alias Leash.Stdio.ReadyLine

  # Returns the index of the part that matches, counted from 0.
  defp matched(regex, parts) do
    Enum.reduce_while(Enum.with_index(parts), ReadyLine.new(regex), fn {part, index}, ready ->
      case ReadyLine.push(ready, part) do
        :match -> {:halt, index}
        ready -> {:cont, ready}
      end
    end)
    |> then(&if(is_integer(&1), do: &1))
  end

  test "bytes that are no UTF-8 are no match for a regex of Unicode, and it reads on" do
    assert matched(~r/ready/u, ["caf\xE9\n", "\xFF\xFE", "\nready"]) == 2
    assert matched(~r/^caf.$/u, ["caf\xE9\n"]) == 0
    assert matched(~r/é/u, ["caf\xE9\n"]) == nil
    assert matched(~r/caf\xE9$/, ["caf\xE9\n"]) == 0
  end

  test "a character that comes in parts matches when it is complete" do
    <<a, b, c>> = "✓"
    assert matched(~r/✓ Ready/u, [<<a>>, <<b>>, <<c, " Rea">>, "dy in 2s"]) == 3
    assert matched(~r/✓/u, [<<a, b>>, <<c>>]) == 1
    assert matched(~r/✓/, [<<a, b>>, <<c>>]) == 1
    # The missing part does not match: any character would match that pattern.
    assert matched(~r/^[^a]$/u, [<<a, b>>]) == nil
  end

  test "a line may end in a carriage return, or be overwritten" do
    assert matched(~r/^ready$/, ["starting 10%\r", "ready\r", "\n"]) == 1
  end

  test "a line without an end is looked at, and only its end is kept" do
    noise = List.duplicate(String.duplicate("é", 50_000), 4)

    for regex <- [~r/é ready$/u, ~r/ ready$/] do
      assert matched(regex, noise ++ [" rea", "dy"]) == 5
      ready = Enum.reduce(noise, ReadyLine.new(regex), &ReadyLine.push(&2, &1))
      assert byte_size(ready.rest) < 5_000
    end

    # The kept part does not begin the line.
    assert matched(~r/^é+$/u, [String.duplicate("é", 50_000) <> "x", "é"]) == nil

    for regex <- [~r/^[^b]/u, ~r/^é/u, ~r/^\./] do
      parts = ["b" <> String.duplicate("é", 50_000), "é"]
      assert matched(regex, parts) == nil
      assert matched(~r/^ok/u, parts ++ ["\nok"]) == 2
    end
  end
end
