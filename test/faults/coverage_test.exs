defmodule Leash.Faults.CoverageTest do
  use ExUnit.Case, async: true

  @moduledoc "The table of faults names every fault, and only tests that exist."

  @root Path.expand("../..", __DIR__)

  setup_all do
    rows =
      for line <- File.stream!(Path.join(__DIR__, "COVERAGE.md")),
          [_all, number, where] <- [Regex.run(~r/^\| (\d+) \| .* \| (.*) \|$/, String.trim(line))],
          do: {String.to_integer(number), where}

    {:ok, rows: rows}
  end

  test "every fault from 1 to 72 and from 98 to 121 has its row", %{rows: rows} do
    assert Enum.concat(1..72, 98..121) -- Enum.map(rows, &elem(&1, 0)) == []
  end

  test "every row names files that exist, or the design", %{rows: rows} do
    for {number, where} <- rows do
      paths = for [_all, path] <- Regex.scan(~r/`([^`]+)`/, where), do: path
      assert {number, paths} != {number, []} or where == "DESIGN.md"
      for path <- paths, do: assert(File.exists?(Path.join(@root, path)), "#{number}: no #{path}")
    end
  end

  test "the number is in the name of a test in each file of this directory", %{rows: rows} do
    for {number, where} <- rows,
        [_all, path] <- Regex.scan(~r/`(test\/faults\/[^`]+)`/, where) do
      text = File.read!(Path.join(@root, path))
      named = ~r/(test|describe|\{) ?"([^"]*\b)?#{number}\b[^"]*"/
      assert text =~ named, "no test of #{number} in #{path}"
    end
  end
end
