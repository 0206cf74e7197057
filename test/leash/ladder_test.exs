defmodule Leash.LadderTest do
  use ExUnit.Case, async: true

  alias Leash.Ladder

  test "writes the shim's option" do
    assert Ladder.to_option(sigterm: 2_000) == "15:2000@group"
    assert Ladder.to_option(sigint: 500, sigterm: 1_500) == "2:500@group,15:1500@group"
    assert Ladder.to_option([{:sigint, :infinity, to: :leader}]) == "2:inf@leader"
    assert Ladder.to_option([]) == "KILL:0"
  end

  test "counts how long it can take" do
    assert Ladder.duration([]) == 0
    assert Ladder.duration(sigint: 500, sigterm: 1_500) == 2_000
    assert Ladder.duration(sigint: :infinity, sigterm: 1_500) == :infinity
    assert Ladder.shutdown(sigterm: 2_000) == 4_000
    assert Ladder.shutdown(sigterm: :infinity) == :infinity
  end

  test "refuses what no shim understands" do
    for bad <- [
          :sigterm,
          [:sigterm],
          [sigterm: -1],
          [sigterm: 1.5],
          [sigterm: 3_000_000_000],
          [sigfoo: 1],
          [{:sigterm, 1, to: :everybody}],
          [{0, 1}],
          [{65, 1}],
          List.duplicate({:sigterm, 1}, 9)
        ] do
      refute Ladder.valid?(bad), inspect(bad)
    end

    for good <- [[], [sigterm: 0], [{34, 10}], [{:sigterm, :infinity, to: :tree}]] do
      assert Ladder.valid?(good), inspect(good)
    end
  end
end
