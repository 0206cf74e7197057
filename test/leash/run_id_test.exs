defmodule Leash.RunIdTest do
  use ExUnit.Case, async: true

  doctest Leash.RunId

  alias Leash.RunId

  test "generated ids are valid and differ" do
    ids = for _ <- 1..1_000, do: RunId.generate()
    assert Enum.all?(ids, &RunId.valid?/1)
    assert ids |> Enum.uniq() |> length() == 1_000
  end

  test "ids use the whole alphabet in every place" do
    ids = for _ <- 1..4_000, do: String.graphemes(RunId.generate())

    for place <- 0..6 do
      seen = ids |> Enum.map(&Enum.at(&1, place)) |> Enum.uniq() |> length()
      assert seen == 36, "place #{place} has #{seen} of 36 characters in 4,000 ids"
    end
  end

  test "what is no id is not valid" do
    for bad <- [
          "",
          "s59m65",
          "s59m65ff",
          "S59M65F",
          "s59m65F",
          "0000000",
          "-1",
          "s59m65\n",
          "s59m65\0",
          "s59m6é",
          String.duplicate("a", 300),
          nil,
          1,
          ~c"s59m65f",
          :s59m65f,
          <<1::size(55)>>
        ] do
      refute RunId.valid?(bad), inspect(bad)
    end
  end

  describe "extract/2" do
    test "finds both spellings of both flags" do
      for flag <- ["--run-id", "--snakepit-run-id"] do
        assert RunId.extract(["python3", "w.py", flag, "s59m65f"]) == {:ok, "s59m65f"}
        assert RunId.extract(["python3", "w.py", flag <> "=s59m65f"]) == {:ok, "s59m65f"}
        assert RunId.extract("python3 w.py #{flag} s59m65f -v") == {:ok, "s59m65f"}
        assert RunId.extract("python3 w.py #{flag}=s59m65f -v") == {:ok, "s59m65f"}
      end
    end

    test "compares flags and ids whole" do
      for args <- [
            ["--run-ids", "s59m65f"],
            ["x--run-id=s59m65f"],
            ["--run-id=s59m65ff"],
            ["--run-id=S59M65F"],
            ["--run-id="],
            ["--run-id"],
            ["--run-id s59m65f"],
            ["s59m65f"],
            ["--", "--run-id=s59m65f"],
            [],
            [""]
          ] do
        assert RunId.extract(args) == :error, inspect(args)
      end
    end

    test "looks only for the flags it is given" do
      assert RunId.extract(["--job=s59m65f"], flags: ["--job"]) == {:ok, "s59m65f"}
      assert RunId.extract(["--run-id=s59m65f"], flags: ["--job"]) == :error
      assert RunId.extract(["--run-id=s59m65f"], flags: []) == :error
    end

    test "bytes that are no text do not disturb it" do
      assert RunId.extract([<<0xFF, 0xFE>>, "--run-id", "s59m65f"]) == {:ok, "s59m65f"}
      assert RunId.extract(<<0xFF, " --run-id s59m65f">>) == {:ok, "s59m65f"}
    end

    test "says what it expected" do
      assert_raise ArgumentError, ~r/expected :flags to be a list .* got: \[""\]/, fn ->
        RunId.extract([], flags: [""])
      end

      assert_raise ArgumentError, ~r/expected a command line .* got: 1/, fn ->
        RunId.extract(1)
      end
    end
  end
end
