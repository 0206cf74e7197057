defmodule Leash.GuidesTest do
  @moduledoc """
  Every call, option and file that the guides and the README name exists.

  The tests look at fenced `elixir` blocks, and at spans in backticks that are a name with its
  arity, a call or an option. Other tests check the behaviour that the guides describe.
  """

  use ExUnit.Case, async: true

  alias Leash.{Command, Config, OpenPort, Schema, StopAll, Sweep, Worker}

  @root Path.expand("..", __DIR__)
  @files [
    "README.md"
    | Enum.map(
        Path.wildcard(Path.join(@root, "guides/*.{md,cheatmd}")),
        &Path.relative_to(&1, @root)
      )
  ]

  # Tables that compare one library's options with ours. The last column holds our options.
  @mappings ["guides/commands.md", "guides/migrating.md"]

  for file <- @files do
    @file_ file

    describe file do
      test "every elixir block parses, and its calls and options exist" do
        for {line, code} <- blocks(@file_) do
          assert {line, {:ok, quoted}} = {line, Code.string_to_quoted(code)}
          assert {line, mistakes(quoted)} == {line, []}
        end
      end

      test "every function and module in backticks exists" do
        for {line, span} <- spans(@file_), name <- names(span) do
          assert {line, name, exists?(name)} == {line, name, true}
        end
      end

      test "every call in backticks that can be read exists, and so do its options" do
        for {line, span} <- spans(@file_),
            span =~ ~r/^\{?Leash[\w.]*[.,!]\s?.*[({\[ ]/,
            {:ok, quoted} <- [parse(span)] do
          assert {line, span, mistakes(quoted)} == {line, span, []}
        end
      end

      test "every link to a file leads to one" do
        for [_all, target] <- Regex.scan(~r/\]\((?!https?:)([^)#]+)/, text(@file_)) do
          path = [@root, Path.dirname(@file_), target] |> Path.join() |> Path.expand()
          assert {target, File.exists?(path)} == {target, true}
        end
      end

      test "every test and example that is named is a file" do
        for {line, span} <- spans(@file_), span =~ ~r{^(test|examples|native|lib)/[\w/.]+$} do
          assert {line, span, File.exists?(Path.join(@root, span))} == {line, span, true}
        end
      end
    end
  end

  for file <- @mappings do
    @file_ file

    test "#{file}: every option of ours in a table is one of the call in the table's head" do
      rows = mapped_options(@file_)
      assert length(rows) > 5

      for {line, schemas, [{key, value}]} <- rows do
        assert {line, key, refusals(schemas, [{key, value}])} == {line, key, []}
      end
    end
  end

  test "a mistake is one" do
    wrong = fn code -> code |> Code.string_to_quoted!() |> mistakes() end
    assert [_] = wrong.("Leash.no_such(1)")
    assert [_] = wrong.("Leash.cmd()")
    assert [_] = wrong.("Leash.cmd(\"ls\", [], timeouts: 5)")
    assert [_] = wrong.("Leash.cmd(\"ls\", [], timeout: :never)")
    assert [_] = wrong.("{Leash.Worker, command: \"ls\", grup: :a}")
    assert [_] = wrong.("Leash.open_port(\"ls\", [], [:binary, :no_such_flag])")
    assert [_] = wrong.("Leash.open_port(\"ls\", [], [:binary, packet: 3])")
    assert [_] = wrong.("config :leash, rundir: \"/run\"")
    assert [_] = wrong.("x |> Leash.cmd([], [], [])")
    assert [_] = wrong.("&Leash.cmd/4")

    assert [] =
             wrong.("x |> Leash.cmd([], timeout: ms); &Leash.cmd/3; Leash.sweep(mode: :report)")

    refute exists?("Leash.cmd/4")
    refute exists?("Leash.NoSuch")

    assert exists?("Leash.cmd/3") and exists?("t:Leash.Worker.survivor/0") and
             exists?("Leash.Exit")

    assert [{:timeout, _}] = refusals([Command.Options.cmd()], timeout: :never)
    assert [{:grup, _}] = refusals([Command.Options.cmd(), Worker.Options.schema()], grup: :a)
  end

  ## Reading

  defp text(file), do: File.read!(Path.join(@root, file))

  defp lines(file), do: file |> text() |> String.split("\n") |> Enum.with_index(1)

  # {line, code} of each fenced block of Elixir.
  defp blocks(file) do
    file
    |> lines()
    |> Enum.reduce({[], nil}, fn
      {"```elixir", line}, {done, nil} ->
        {done, {line, []}}

      {"```", _line}, {done, {line, code}} ->
        {[{line, code |> Enum.reverse() |> Enum.join("\n")} | done], nil}

      {code, _line}, {done, {line, before}} ->
        {done, {line, [code | before]}}

      _text, state ->
        state
    end)
    |> elem(0)
    |> Enum.reverse()
  end

  # {line, span} of everything in backticks outside of fenced blocks.
  defp spans(file) do
    for {text, line} <- prose(file),
        [_all, span] <- Regex.scan(~r/`([^`]+)`/, text),
        do: {line, unescape(span)}
  end

  # In a table a pipe has to be escaped.
  defp unescape(span), do: String.replace(span, "\\|", "|")

  defp prose(file) do
    {prose, _fenced?} =
      Enum.reduce(lines(file), {[], false}, fn
        {"```" <> _, _line}, {prose, fenced?} -> {prose, not fenced?}
        _code, {prose, true} -> {prose, true}
        line, {prose, false} -> {[line | prose], false}
      end)

    Enum.reverse(prose)
  end

  defp names(span) do
    case Regex.run(~r/^(?:t:)?Leash(?:\.[A-Z]\w*)*(?:\.[a-z_]\w*[?!]?\/\d)?$/, span) do
      [name] -> [name]
      nil -> []
    end
  end

  # {line, schemas, [option]} of every option in the last column of the tables.
  defp mapped_options(file) do
    {rows, _schemas} =
      Enum.reduce(prose(file), {[], nil}, fn {text, line}, {rows, schemas} ->
        cells = if text =~ ~r/^\|.*\|$/, do: cells(text)

        cond do
          cells == nil ->
            {rows, nil}

          schemas == nil ->
            {rows, cells |> List.last() |> heads()}

          true ->
            {options(List.last(cells), line, called(List.last(cells)) ++ schemas) ++ rows,
             schemas}
        end
      end)

    rows
  end

  defp cells(row),
    do: row |> String.trim("|") |> String.split(~r/(?<!\\)\|/) |> Enum.map(&unescape/1)

  defp options(cell, line, schemas) do
    for [_all, span] <- Regex.scan(~r/`([a-z_]+: ?[^`]*)`/, cell),
        {:ok, [_] = option} <- [parse("[#{value(span)}]")],
        do: {line, schemas, option}
  end

  # `into:` alone names an option with a value of the caller's own.
  defp value(span), do: if(String.ends_with?(span, ":"), do: span <> " anything", else: span)

  # A table's head names the calls whose options it has, or a cell names a call of its own.
  # Without either, any call will do.
  defp heads(cell) do
    case called(cell) do
      [] ->
        [
          Config.schema()
          | Enum.map(~w(Leash.cmd Leash.stream Leash.open_port Leash.Worker), &schema/1)
        ]

      schemas ->
        schemas
    end
  end

  defp called(cell) do
    for [name] <- Regex.scan(~r/Leash(?:\.[A-Z]\w*)*(?:\.[a-z_]+!?)?/, cell),
        schema = schema(name),
        do: schema
  end

  defp schema("Leash.cmd"), do: Command.Options.cmd()

  defp schema(stream) when stream in ["Leash.stream!", "Leash.stream"],
    do: Command.Options.stream()

  defp schema("Leash.open_port"), do: OpenPort.Options.schema()
  defp schema("Leash.Worker"), do: Worker.Options.schema()
  defp schema(_other), do: nil

  ## Looking

  defp exists?("t:" <> name) do
    {module, type, arity} = split(name)
    {:ok, types} = Code.Typespec.fetch_types(module)

    Enum.any?(types, fn {_kind, {named, _spec, variables}} ->
      {named, length(variables)} == {type, arity}
    end)
  end

  defp exists?(name) do
    case split(name) do
      {module, function, arity} ->
        Code.ensure_loaded?(module) and function_exported?(module, function, arity)

      module ->
        Code.ensure_loaded?(module)
    end
  end

  # `Leash.Worker.stop/2` → {Leash.Worker, :stop, 2}.
  defp split(name) do
    case Regex.run(~r/^(.*)\.([a-z_]\w*[?!]?)\/(\d)$/, name) do
      [_all, module, function, arity] ->
        {Module.concat([module]), String.to_atom(function), String.to_integer(arity)}

      nil ->
        Module.concat([name])
    end
  end

  # A span may be a pattern, a fragment or prose, so only spans that parse are checked.
  defp parse(code), do: Code.string_to_quoted(code)

  # Returns the mistakes in the calls of a piece of code.
  defp mistakes(quoted) do
    quoted = Macro.prewalk(quoted, &unpipe/1)

    {_quoted, found} =
      Macro.prewalk(quoted, [], fn node, found ->
        case mistake(node) do
          {:stop, more} -> {nil, more ++ found}
          more -> {node, more ++ found}
        end
      end)

    Enum.reverse(found)
  end

  defp unpipe({:|>, _meta, [left, {_name, _, args} = call]}) when is_list(args),
    do: Macro.pipe(left, call, 0)

  defp unpipe(node), do: node

  defp mistake(
         {:&, _,
          [{:/, _, [{{:., _, [{:__aliases__, _, [:Leash | _]} = module, name]}, _, _}, arity]}]}
       ),
       do: {:stop, missing(module, name, arity)}

  defp mistake({{:., _, [{:__aliases__, _, [:Leash | _]} = module, name]}, _, args}) do
    case missing(module, name, length(args)) do
      [] -> wrong_options({Module.concat(elem(module, 2)), name}, List.last(args))
      found -> found
    end
  end

  defp mistake({{:__aliases__, _, [:Leash, :Worker]}, options}) when is_list(options),
    do: wrong_options({Worker, :start_link}, options)

  defp mistake({:config, _, [:leash, options]}), do: wrong_options({:config, :leash}, options)
  defp mistake(_node), do: []

  defp missing({:__aliases__, _, parts}, name, arity) do
    called = "#{Enum.join(parts, ".")}.#{name}/#{arity}"
    if exists?(called), do: [], else: ["there is no #{called}"]
  end

  @schemas %{
    {Leash, :cmd} => {Command.Options, :cmd},
    {Leash, :stream!} => {Command.Options, :stream},
    {Leash, :stream} => {Command.Options, :stream},
    {Leash, :open_port} => {OpenPort.Options, :schema},
    {Leash, :stop_all} => {StopAll, :schema},
    {Leash, :sweep} => {Sweep, :schema},
    {Worker, :start_link} => {Worker.Options, :schema},
    {Worker, :child_spec} => {Worker.Options, :schema},
    {:config, :leash} => {Config, :schema}
  }

  defp wrong_options(call, options) when is_list(options) do
    case @schemas[call] do
      nil ->
        []

      {module, function} ->
        {flags, pairs} = Enum.split_with(options, &is_atom/1)
        # A variable or a piped list does not show its keys.
        pairs = Enum.filter(pairs, &match?({key, _} when is_atom(key), &1))

        flags =
          for flag <- flags,
              not Keyword.has_key?(OpenPort.Options.flags(), flag),
              do: {flag, "no flag"}

        flags ++ Enum.flat_map(pairs, &refusals([apply(module, function, [])], [&1]))
    end
  end

  defp wrong_options(_call, _not_written_out), do: []

  # Returns the options that none of the schemas takes. If a value is not a literal, it is the
  # reader's own, and only its key is checked.
  defp refusals(schemas, [{key, quoted}]) do
    cond do
      Enum.any?(schemas, &takes?(&1, key, quoted)) -> []
      true -> [{key, Macro.to_string(quoted)}]
    end
  end

  defp takes?(schema, key, quoted) do
    key in Schema.keys(schema) and
      (not Macro.quoted_literal?(quoted) or
         match?(
           {:ok, _},
           Schema.validate(schema, [{key, quoted |> Code.eval_quoted() |> elem(0)}])
         ))
  end
end
