defmodule Leash.ErlangDocsTest do
  use ExUnit.Case, async: true

  setup_all do
    {:docs_v1, _, :erlang, "text/markdown", %{"en" => about}, _, functions} =
      Code.fetch_docs(:leash)

    %{
      about: about,
      docs:
        for(
          {{:function, name, arity}, _, [head], doc, _} <- functions,
          do: {name, arity, head, doc}
        )
    }
  end

  test "h :leash shows what the module is for", %{about: about} do
    assert about =~ "every OS process your BEAM app starts"
    assert about =~ ~r/^    init\(\[\]\) ->$/m
  end

  test "every exported function is documented, itself or in a variant with fewer arguments", %{
    docs: docs
  } do
    exported =
      for {name, arity} <- :leash.module_info(:exports), name != :module_info, do: {name, arity}

    assert Enum.sort(exported) ==
             Enum.sort(for {name, arity, _head, _doc} <- docs, do: {name, arity})

    for {name, _arity} <- exported,
        do:
          assert(Enum.any?(docs, &match?({^name, _, _, %{"en" => _}}, &1)), "#{name} has no doc")
  end

  test "the heads name the arguments", %{docs: docs} do
    assert {:stop, 2, "stop(Worker, Options)", %{"en" => doc}} =
             List.keyfind(docs, "stop(Worker, Options)", 2)

    assert doc =~ "skips the ladder"
  end

  test "it has every call of the Elixir front doors" do
    calls = fn module -> for {name, _arity} <- module.__info__(:functions), do: name end
    # One that raises at a failed command has no use in Erlang, where a match does that.
    elixir = Enum.uniq(calls.(Leash) ++ calls.(Leash.Worker)) -- [:stream!]
    erlang = for {name, _arity} <- :leash.module_info(:exports), do: name
    assert elixir -- erlang == []
  end
end
