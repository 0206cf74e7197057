defmodule Mix.Tasks.Compile.LeashErlangDocs do
  @moduledoc """
  Makes the documentation of the module `:leash` from the comments of its source, so that
  `h :leash` shows it.

  The chunk goes to `doc/chunks` of the application, where EEP 48 wants it for a module whose
  beam file holds none. Before OTP 27 there are no `-doc` attributes, and `edoc` is a package of
  its own on some systems.

  The module is a Mix compiler. The comment that ends right above a `-spec` documents that
  function, and the comment above `-module` documents the module.
  """

  use Mix.Task.Compiler

  @source Path.expand("../src/leash.erl", __DIR__)

  @impl true
  def run(_args) do
    case File.read(@source) do
      {:ok, source} -> install(source |> docs() |> :erlang.term_to_binary())
      {:error, :enoent} -> {:noop, []}
    end
  end

  defp install(chunk) do
    if File.read(target()) == {:ok, chunk} do
      {:noop, []}
    else
      File.mkdir_p!(Path.dirname(target()))
      File.write!(target(), chunk)
      {:ok, []}
    end
  end

  @impl true
  def manifests, do: [target()]

  @impl true
  def clean, do: File.rm(target())

  defp target, do: Path.join(Mix.Project.app_path(), "doc/chunks/leash.chunk")

  @doc "Returns the documentation in a source, as a `docs_v1` of EEP 48."
  @spec docs(String.t()) :: tuple()
  def docs(source) do
    {:ok, tokens, _end} = :erl_scan.string(String.to_charlist(source), {1, 1}, [:return_comments])
    forms = tokens |> Enum.chunk_while([], &chunk/2, &{:cont, &1}) |> Enum.map(&form/1)
    [{:module, about, _line} | _] = for {:module, _, _} = module <- forms, do: module

    functions =
      for {{:spec, name, comment, line}, {:function, head, arity}} <- Enum.zip(forms, tl(forms)),
          do: {{:function, name, arity}, line, [head], comment, %{}}

    {:docs_v1, 1, :erlang, "text/markdown", about, %{}, functions}
  end

  defp chunk({:dot, _at}, form), do: {:cont, Enum.reverse(form), []}
  defp chunk(token, form), do: {:cont, [token | form]}

  defp form(tokens) do
    {comments, code} = Enum.split_while(tokens, &match?({:comment, _, _}, &1))

    case code do
      [{:-, at}, {:atom, _, :module} | _] ->
        {:module, comment(comments, at), line(at)}

      [{:-, at}, {:atom, _, :spec}, {:atom, _, name} | _] ->
        {:spec, name, comment(comments, at), line(at)}

      [{:atom, _, _name}, {:"(", _} | _] ->
        function(code)

      _other ->
        :other
    end
  end

  # Only the comment that ends on the line above belongs to a form.
  defp comment(comments, at) do
    comments
    |> Enum.reverse()
    |> Enum.reduce_while({line(at), []}, fn {:comment, where, text}, {below, lines} ->
      if line(where) == below - 1,
        do: {:cont, {line(where), [text(text) | lines]}},
        else: {:halt, {below, lines}}
    end)
    |> case do
      {_line, []} -> :none
      {_line, lines} -> %{"en" => Enum.join(lines, "\n")}
    end
  end

  defp text(comment), do: comment |> List.to_string() |> String.replace(~r/^%+ ?/, "")

  defp function(code) do
    head = Enum.take_while(code, &(elem(&1, 0) != :->))

    {:ok, form} =
      :erl_parse.parse_form(head ++ [{:->, {1, 1}}, {:atom, {1, 1}, :ok}, {:dot, {1, 1}}])

    {:function, _at, _name, arity, [{:clause, _, arguments, _, _} | _]} = form
    names = Enum.map_join(arguments, ", ", &(&1 |> :erl_pp.expr() |> to_string()))
    {:function, "#{elem(form, 2)}(#{names})", arity}
  end

  defp line({line, _column}), do: line
end
