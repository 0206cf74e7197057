defmodule Leash.SchemaTest do
  use ExUnit.Case, async: true

  import Bitwise

  alias Leash.{OptionsError, Schema}

  @schema Schema.new(
            size: [
              type: {:custom, __MODULE__, :at_least, [3]},
              type_doc: "3 or more",
              type_spec: quote(do: pos_integer()),
              default: 4,
              doc: "How many."
            ],
            mode: [type: {:in, [:fast, :slow]}, default: :fast, doc: "How."],
            path: [type: {:or, [nil, {:custom, Schema, :text, []}]}, doc: "Where."],
            wait: [type: Schema.milliseconds(), default: 0, doc: "How long."],
            out: [type: {:custom, Schema, :target, [[:null]]}, default: :null, doc: "Whereto."],
            flag: [type: :boolean, default: false, doc: "Whether."]
          )

  @nested Schema.new(
            call: [type: {:or, [{:fun, 1}, :pid]}, doc: "To what."],
            limit: [
              type:
                {:or,
                 [
                   nil,
                   keyword_list: [
                     size: [
                       type: {:custom, __MODULE__, :at_least, [3]},
                       type_doc: "3 or more",
                       type_spec: 3
                     ],
                     most: [type: {:in, 1..5}, required: true, doc: "The most."],
                     every: [type: :pos_integer, default: 7, doc: "How often."],
                     deep: [type: :keyword_list, keys: [end: [type: :non_neg_integer]]]
                   ]
                 ]},
              doc: "Limits."
            ]
          )

  def at_least(value, least) do
    if is_integer(value) and value >= least, do: {:ok, value}, else: {:error, "#{least} or more"}
  end

  defp refused(options) do
    assert {:error, %OptionsError{} = error} = Schema.validate(@schema, options)
    {error.key, error.expected, error.value}
  end

  test "what is not given has its default" do
    defaults = %{size: 4, mode: :fast, path: nil, wait: 0, out: :null, flag: false}
    assert Schema.validate(@schema, []) == {:ok, defaults}
    assert Schema.validate(@schema, %{size: 3}) == {:ok, %{defaults | size: 3}}
    assert {:ok, %{path: nil}} = Schema.validate(@schema, path: nil)
  end

  test "of an option that is given twice the first counts" do
    assert {:ok, %{size: 5}} = Schema.validate(@schema, size: 5, flag: true, size: 6)
    assert {:ok, %{size: 5}} = Schema.validate(@schema, size: 5, size: :many)
    assert {:size, _, :many} = refused(size: :many, size: 5)
  end

  test "the first mistake is the one that is reported" do
    assert refused(flag: 0, size: 2) == {:flag, "true or false", 0}
    assert refused(size: 2, flag: 0) == {:size, "3 or more", 2}
    assert {nil, "one of [:size, :mode," <> _, :sise} = refused(sise: 3, flag: 0)
    assert {nil, "a keyword list" <> _, [:flag]} = refused([:flag])
  end

  test "each type knows what it takes" do
    for {key, good, bad} <- [
          {:mode, [:fast, :slow], [nil, "fast", :other]},
          {:path, [nil, "/x", <<0xFF>>], ["", "a\0", ~c"/x", :x]},
          {:wait, [0, 0x7FFFFFFF], [nil, -1, 1.0, 0x80000000]},
          {:out, [:null, {:file, "x"}], [nil, :file, {:file, ""}, {:file, nil}]},
          {:flag, [true, false], [nil, 1]}
        ] do
      for value <- good,
          do: assert({:ok, %{^key => ^value}} = Schema.validate(@schema, [{key, value}]))

      for value <- bad, do: assert({^key, _expected, ^value} = refused([{key, value}]))
    end
  end

  test "the documentation names type and default" do
    docs = Schema.docs(@schema)
    assert docs =~ "`:size` - How many. Expects 3 or more; default `4`."
    assert docs =~ "`:path` - Where. Expects a string without NUL bytes.\n"
    assert docs =~ "`:mode` - How. Expects :fast or :slow; default `:fast`."
  end

  describe "nested options" do
    defp mistake(limit) do
      assert {:error, %OptionsError{key: :limit} = error} = Schema.validate(@nested, limit: limit)

      {error.path, error.expected, error.value, Exception.message(error)}
    end

    test "stay in order, and get their defaults" do
      assert Schema.validate(@nested, []) == {:ok, %{call: nil, limit: nil}}
      assert {:ok, %{limit: nil}} = Schema.validate(@nested, limit: nil)
      assert {:ok, %{limit: limit}} = Schema.validate(@nested, limit: [size: 3, most: 1])
      assert Enum.sort(limit) == [every: 7, most: 1, size: 3]
      assert Keyword.keys(limit) -- [:every] == [:size, :most]

      assert {:ok, %{limit: [most: 1, every: 1]}} =
               Schema.validate(@nested, limit: [most: 1, every: 1])
    end

    test "name the way to a mistake" do
      assert {[:limit, :most], "an integer from 1 to 5", 6, message} = mistake(most: 6)

      assert message ==
               "invalid value for :most option in :limit: expected an integer from 1 to 5, got: 6"

      assert {[:limit, :size], "3 or more", 2, _} = mistake(size: 2, most: 6)

      assert {[:limit, :deep, :end], "a non-negative integer", -1, message} =
               mistake(most: 1, deep: [end: -1])

      assert message =~ "for :end option in :deep in :limit: expected"

      assert {[:limit, :deep, nil], "one of [:end]", :ends, message} =
               mistake(most: 1, deep: [ends: 1])

      assert message =~ "invalid options in :deep in :limit: expected one of [:end], got: :ends"
      assert message =~ "(did you mean :end?)"

      assert {[:limit, nil], "one of [:size, :most, :every, :deep]", :colour, _} =
               mistake(colour: 1)
    end

    test "are there once, and if they are required" do
      assert {[:limit, :most], "one value, and not several", [1, 2], _} =
               mistake(most: 1, size: 3, most: 2)

      assert {[:limit, :most], "an integer from 1 to 5 (it is required)", nil, _} = mistake([])
    end

    test "are a keyword list" do
      for wrong <- [true, %{most: 1}, [:most], [{"most", 1}]] do
        assert {[], "a keyword list of :size, :most, :every, :deep", ^wrong, _} = mistake(wrong)
      end
    end

    test "are listed below their option" do
      assert Schema.docs(@nested) == """
               * `:call` - To what. Expects a function of one argument or a pid.

               * `:limit` - Limits. Expects a keyword list of :size, :most, :every, :deep.

                 * `:size` - Expects 3 or more.

                 * `:most` - The most. Expects an integer from 1 to 5; required.

                 * `:every` - How often. Expects a positive integer; default `7`.

                 * `:deep` - Expects a keyword list of :end.

                   * `:end` - Expects a non-negative integer.
             """
    end

    test "have a type" do
      spec = @schema.options |> Keyword.take([:out, :path, :wait]) |> Schema.new()
      assert typespec(spec) =~ "{:path, String.t() | nil}"

      assert typespec(@nested) =~
               "{:limit, [{:size, 3} | {:most, 1..5} | {:every, pos_integer()} | {:deep, end: non_neg_integer()}] | nil}"
    end

    defp typespec(schema),
      do: schema |> Schema.typespec() |> Macro.to_string() |> String.replace(~r"\s+", " ")
  end

  test "no value makes a check fail otherwise than with an error that can be read" do
    values = [
      nil,
      true,
      :x,
      :infinity,
      0,
      -1,
      1.5,
      1 <<< 80,
      "",
      "x",
      <<0>>,
      <<0xFF>>,
      "TERM",
      [],
      [nil],
      [:a | :b],
      [{:a, 1} | :b],
      [{:rss, 1} | :b],
      ["a" | "b"],
      [{"A", <<0xFF>>}],
      [{<<0xFF>>, 1}],
      [{<<0xFF>>, 1, to: :tree}],
      [{}],
      [{:cmd, [], 1}],
      [{:cmd, ["a" | "b"], 1}],
      [{1, 2, 3, 4}],
      {},
      {:file, nil},
      {:tcp, nil},
      {:http, <<0xFF>>},
      {:http, {1, <<0xFF>>}},
      {:os_pid, []},
      {:via, 1, 1},
      {2, 1},
      %{},
      %{"A" => 1},
      ~r/x/,
      1..2,
      self(),
      make_ref(),
      fn -> 1 end,
      fn _ -> 1 end,
      fn _, _ -> 1 end,
      [rss: <<0xFF>>],
      [check: []],
      [stop: []],
      [nice: 1.5]
    ]

    for schema <- [
          Leash.Worker.Options.schema(),
          Leash.Worker.ChildSpec.schema(),
          Leash.Command.Options.cmd(),
          Leash.Command.Options.stream(),
          Leash.OpenPort.Options.schema(),
          Leash.Attachment.schema(),
          Leash.Config.schema(),
          Leash.StopAll.schema(),
          Leash.Listing.schema()
        ],
        key <- [:no_such_key, :redy | Schema.keys(schema)],
        value <- values do
      case Schema.validate(schema, [{key, value}]) do
        {:ok, %{^key => _value}} ->
          :ok

        {:error, error} ->
          assert error.key in [key, nil]
          assert is_list(error.path) and is_binary(error.expected)
          assert Exception.message(error) =~ "expected #{error.expected}, got: "
      end
    end

    for value <- values,
        do: assert({:error, %OptionsError{key: nil}} = Schema.validate(@schema, [{value, 1}, :x]))
  end

  describe "a name that does not exist" do
    test "brings the nearest one to mind" do
      for {wrong, hint} <- [
            {:sise, "did you mean :size?"},
            {:flga, "did you mean :flag?"},
            {"mode", "did you mean :mode?"},
            {:colour, nil}
          ] do
        assert Leash.Suggestion.option(wrong, Schema.keys(@schema)) == hint
      end

      assert {:error, error} = Schema.validate(@schema, sise: 3)

      assert Exception.message(error) ==
               "invalid options: expected one of [:size, :mode, :path, :wait, :out, :flag], " <>
                 "got: :sise (did you mean :size?)"
    end

    test "of another library brings ours to mind, if there is one" do
      keys = [:command, :cd, :ready, :ready_timeout, :user]

      for {foreign, hint} <- [
            {:cwd, "did you mean :cd?"},
            {:cmd, "did you mean :command?"},
            {:timeout, "did you mean :ready_timeout?"},
            {:uid, "did you mean :user?"},
            {:kill_timeout, nil}
          ] do
        assert Leash.Suggestion.option(foreign, keys) == hint, inspect(foreign)
      end

      assert Leash.Suggestion.option(:kill_timeout, [:stop]) == "did you mean :stop?"
    end
  end
end
