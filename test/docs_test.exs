defmodule Leash.DocsTest do
  @moduledoc """
  The documentation in the modules: it is there, it names what exists, and its examples run.
  """

  use ExUnit.Case, async: true

  doctest Leash
  doctest Leash.Error

  {:ok, modules} = :application.get_key(:leash, :modules)
  # The test environment compiles its support as well.
  @modules for module <- modules,
               match?("Elixir." <> _, Atom.to_string(module)),
               not (inspect(module) =~ "Leash.Test"),
               do: module

  defp docs(module) do
    with {:docs_v1, _, :elixir, _, about, _, entries} <- Code.fetch_docs(module),
         do: {about, entries}
  end

  # {what, text} of every documented thing of a public module.
  defp texts(module) do
    case docs(module) do
      {%{"en" => about}, entries} ->
        [{module, about} | for({name, _, _, %{"en" => text}, _} <- entries, do: {name, text})]

      _hidden ->
        []
    end
  end

  test "every module says what it is, or that it is internal" do
    for module <- @modules do
      {about, _entries} = docs(module)
      assert {module, about} != {module, :none}
    end
  end

  test "every function of a public module is documented, or says that it is internal" do
    for module <- @modules, {%{"en" => _}, entries} <- [docs(module)] do
      callbacks =
        for {_, behaviours} <- module.module_info(:attributes),
            is_list(behaviours),
            behaviour <- behaviours,
            is_atom(behaviour),
            Code.ensure_loaded?(behaviour),
            function_exported?(behaviour, :behaviour_info, 1),
            callback <- behaviour.behaviour_info(:callbacks),
            do: callback

      bare =
        for {{:function, name, arity}, _, _, :none, _} <- entries,
            {name, arity} not in callbacks,
            name not in [:__struct__, :exception],
            do: {name, arity}

      assert {module, bare} == {module, []}
    end
  end

  test "every public function has a type" do
    for module <- @modules, {%{"en" => _}, entries} <- [docs(module)] do
      {:ok, specs} = Code.Typespec.fetch_specs(module)
      typed = for {function, _spec} <- specs, do: function

      untyped =
        for {{:function, name, arity}, _, _, %{"en" => _}, meta} <- entries,
            first = arity - Map.get(meta, :defaults, 0),
            Enum.all?(first..arity, &({name, &1} not in typed)),
            do: {name, arity}

      assert {module, untyped} == {module, []}
    end
  end

  test "every name in backticks exists" do
    for module <- @modules, {what, text} <- texts(module) do
      missing =
        for [_all, span] <- Regex.scan(~r/`([^`\n]+)`/, text), not exists?(span, module), do: span

      assert {module, what, missing} == {module, what, []}
    end
  end

  # Names only: a call or an option is checked where a schema knows it.
  defp exists?(span, module) do
    case Regex.run(~r/^(t:)?((?:Leash(?:\.[A-Z]\w*)*)?)\.?([a-z_]\w*[?!]?)\/(\d)$/, span) do
      [_all, kind, named, name, arity] ->
        in_module = if named == "", do: module, else: Module.concat([named])
        defined?(kind, in_module, String.to_atom(name), String.to_integer(arity))

      nil ->
        not (span =~ ~r/^Leash(\.[A-Z]\w*)+$/) or Code.ensure_loaded?(Module.concat([span]))
    end
  end

  defp defined?("t:", module, name, arity) do
    {:ok, types} = Code.Typespec.fetch_types(module)

    Enum.any?(types, fn {_, {type, _, arguments}} ->
      {type, length(arguments)} == {name, arity}
    end)
  end

  defp defined?("", module, name, arity) do
    Code.ensure_loaded?(module) and
      (function_exported?(module, name, arity) or function_exported?(Kernel, name, arity))
  end

  # A file, or one with a name of its own for its page.
  defp extra_path({file, _options}), do: Atom.to_string(file)
  defp extra_path(file), do: file

  test "the rendered documentation has every public module in one group, and files that exist" do
    docs = Mix.Project.config()[:docs]
    grouped = Enum.flat_map(docs[:groups_for_modules], &elem(&1, 1))

    public =
      for module <- @modules,
          docs[:filter_modules].(module, %{}),
          not String.starts_with?(inspect(module), "Mix."),
          texts(module) != [],
          do: module

    assert Enum.sort(grouped) == Enum.sort(public)
    for extra <- docs[:extras], file = extra_path(extra), do: assert(File.regular?(file), file)
  end
end
