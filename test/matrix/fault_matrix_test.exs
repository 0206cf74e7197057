# {how it ends} × {shape of the tree}. No cell has a survivor, and every decoy is alive.

require Leash.Test.Matrix

for {name, path, mode, act} <- Leash.Test.Matrix.paths() do
  body =
    quote do
      use Leash.Test.Matrix, path: unquote(path), mode: unquote(mode), act: unquote(act)
    end

  Module.create(Module.concat(Leash.FaultMatrix, name), body, Macro.Env.location(__ENV__))
end

defmodule Leash.FaultMatrix.WithoutLeashTest do
  # The column for ports without the library shows that the cells can fail.
  use ExUnit.Case, async: false

  alias Leash.Test.Matrix

  @moduletag :matrix

  @tag :slow
  test "the matrix counts what bare ports leave when the VM gets SIGKILL" do
    %{cells: cells} = Matrix.run(:bare, :vm_killed, bound: 500)

    for {key, cell} <- cells do
      assert cell.before != []
      assert {key, cell.left != []} == {key, true}
      assert cell.took == nil
    end
  end
end
