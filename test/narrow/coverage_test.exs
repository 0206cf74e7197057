defmodule Leash.Narrow.CoverageTest do
  use ExUnit.Case, async: true

  @moduledoc """
  The table of narrow places names only tests that exist, and every test of this directory.
  """

  @root Path.expand("../..", __DIR__)

  setup_all do
    rows =
      for line <- File.stream!(Path.join(__DIR__, "COVERAGE.md")),
          String.starts_with?(line, "| "),
          columns = line |> String.trim() |> String.split(" | "),
          length(columns) == 5,
          do: {hd(columns), List.last(columns)}

    {:ok, rows: rows}
  end

  test "every row names a test that exists", %{rows: [_head | rows]} do
    assert length(rows) > 20

    for {what, where} <- rows do
      paths =
        for [_all, path] <- Regex.scan(~r/`((?:test|native|script)\/[^`]+)`/, where), do: path

      assert paths != [] or what =~ "control groups", "no test of: #{what}"
      for path <- paths, do: assert(File.exists?(Path.join(@root, path)), "#{what}: no #{path}")
    end
  end

  test "every test of this directory is in a row", %{rows: rows} do
    for path <- Path.wildcard(Path.join(__DIR__, "*_test.exs")),
        name = Path.relative_to(path, @root),
        name != "test/narrow/coverage_test.exs",
        do:
          assert(Enum.any?(rows, fn {_what, where} -> where =~ name end), "#{name} is in no row")
  end
end
